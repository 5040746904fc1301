"""Finding models: the bundles and checkpoints that ship in edgeface/weights, by name, and those of a user, by path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeface import weights
from edgeface.bundle import MANIFEST, Bundle, read_bundle
from edgeface.errors import OptionError, UnknownModelError
from edgeface.registry import unknown_name


@dataclass(frozen=True)
class Shipped:
    """A bundle that comes with the package. ``default`` for its model: what the model's name alone means."""

    name: str
    directory: Path
    default: bool

    def read(self, *, verify: bool = False) -> Bundle:
        """Its manifest, and with ``verify`` its files' hashes checked; errors as in ``read_bundle``."""
        return read_bundle(self.directory, verify=verify)


def shipped() -> list[Shipped]:
    """The bundles that come with the package, by name."""
    defaults = set(weights.DEFAULTS.values())
    return [Shipped(path.name, path, path.name in defaults) for path in sorted(_bundle_directories())]


def shipped_checkpoints() -> dict[str, Path]:
    """The float checkpoints that come with the package: model -> .pt."""
    return {path.stem: path for path in sorted(weights.directory().glob("*.pt"))}


def find(name_or_path: str | Path, engine: str | None = None) -> Path:
    """The bundle's directory, or the checkpoint, that a name or a path means.

    A text is looked up among the names first: a shipped bundle's ("mos_s-fp16-ncnn") or a model's ("mos_s"), which
    means its default bundle, with ``engine`` its first bundle for that engine, and with engine "torch" its checkpoint.
    What is left, and every ``Path``, is a path: a directory is a bundle, a file a checkpoint. Raises UnknownModelError
    with the choices, OptionError when the model has nothing for the engine, and BundleError for a shipped bundle that
    cannot be read.
    """
    name = str(name_or_path)
    found = None if isinstance(name_or_path, Path) else _find_shipped(name, engine)
    if found is not None:
        return found
    path = Path(name_or_path)
    if path.exists():
        return path
    names = _names()
    if name in names and engine is not None and not isinstance(name_or_path, Path):
        raise OptionError(f"model {name} does not come with a bundle for the engine {engine}: choose another engine")
    if path.suffix or len(path.parts) > 1:
        raise UnknownModelError(f"{path}: no such bundle or checkpoint. Models: {', '.join(names) or 'none'}.")
    raise UnknownModelError(unknown_name("model", name, names))


def _find_shipped(name: str, engine: str | None) -> Path | None:
    bundles = {entry.name: entry for entry in shipped()}
    if name in bundles:
        return bundles[name].directory
    if engine == "torch":
        return shipped_checkpoints().get(name)
    if engine is None:
        default = bundles.get(weights.DEFAULTS.get(name, ""))
        return default.directory if default else None
    for entry in sorted(bundles.values(), key=lambda entry: not entry.default):
        bundle = entry.read()
        if (bundle.model, bundle.engine) == (name, engine):
            return entry.directory
    return None


def _bundle_directories() -> Iterator[Path]:
    return (path.parent for path in weights.directory().glob(f"*/{MANIFEST}"))


def _names() -> list[str]:
    names = {entry.name for entry in shipped()} | set(shipped_checkpoints())
    return sorted(names | {model for model, bundle in weights.DEFAULTS.items() if bundle in names})
