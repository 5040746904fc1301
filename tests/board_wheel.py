"""edgeface's wheel as the tests bring it to a board, made from the source tree without a build."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = {"edgeface": "edgeface", "edgeface/devices": "devices", "edgeface/convert": "convert"}
_KINDS = {".py", ".toml"}


def make_wheel(folder: Path, tag: str = "py3-none-any", *, broken: bool = False) -> Path:
    """A wheel of this version; a ``broken`` one has a worker that cannot start."""
    version = metadata.version("edgeface")
    path = folder / f"edgeface-{version}-{tag}.whl"
    info = f"edgeface-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in ("numpy", "msgspec", "click", "ncnn"))
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: edgeface\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": "[console_scripts]\nedgeface = edgeface.cli:main\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for package, source in _PACKAGES.items():
            for file in sorted((_ROOT / source).rglob("*")):
                if file.suffix in _KINDS:
                    name = f"{package}/{file.relative_to(_ROOT / source)}"
                    files[name] = ""
                    if broken and name == "edgeface/devices/worker.py":
                        wheel.writestr(name, "raise RuntimeError('this worker is broken')\n")
                    else:
                        wheel.write(file, name)
        lines = [f"{name},," for name in (*files, f"{info}/RECORD")]
        for name, content in files.items():
            if content:
                wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")
    return path


def link_dependencies(folder: Path) -> Path:
    """A folder with links to everything that is installed beside edgeface, for a PYTHONPATH."""
    folder.mkdir()
    [site] = [Path(p) for p in sys.path if p.endswith("site-packages") and Path(p, "numpy").is_dir()]
    for entry in site.iterdir():
        if "edgeface" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return folder
