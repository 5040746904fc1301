"""Which engines and kernels are here, told without loading them."""

from __future__ import annotations

from importlib import metadata

from edgeface.runtime.kernels import status

# The engines, and the packages that bring them, the first that is there.
ENGINES = {
    "ncnn": ("ncnn",), "tflite": ("ai-edge-litert", "tflite-runtime"), "onnx": ("onnxruntime",), "torch": ("torch",),
}


def version_of(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def engine_versions() -> dict[str, str | None]:
    """By engine its package and version, as in "ncnn 1.0.20260101"; None where it is not installed."""
    found: dict[str, str | None] = {}
    for engine, packages in ENGINES.items():
        versions = {package: version_of(package) for package in packages}
        found[engine] = next((f"{package} {version}" for package, version in versions.items() if version), None)
    return found


def version_line() -> str:
    """What ``edgeface --version`` prints: edgeface's own, those of the engines, and whether the C kernels are used."""
    here = [text for text in engine_versions().values() if text is not None]
    kernels = "C kernels" if status().used else "no C kernels"
    return f"edgeface {version_of('edgeface')} ({', '.join(here) or 'no engine'}; {kernels})"
