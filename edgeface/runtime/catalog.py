"""Finding models: by name the bundles and checkpoints that come with edgeface and the bundles that were deployed to
this machine, and those of a user by path."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeface import weights
from edgeface.bundle import MANIFEST, Bundle, read_bundle
from edgeface.checkpoint_start import is_of_torch, why_no_checkpoint
from edgeface.errors import BundleError, CheckpointError, EdgefaceError, OptionError, UnknownModelError
from edgeface.registry import unknown_name
from edgeface.regular_files import is_there
from edgeface.runtime.preference import is_installed, preference_here
from edgeface.user_folders import bundles_directory
from edgeface.weights import SHIPPED

_CHECKPOINT = ".pt"
# What 'edgeface convert' makes, which a board does not have.
_PRECISIONS, _TARGETS = ("fp32", "fp16", "int8"), ("ncnn", "onnx", "tflite")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """A bundle that has a name here. ``default`` for its model: what the model's name alone means."""

    name: str
    directory: Path
    default: bool

    def read(self, *, verify: bool = False) -> Bundle:
        """Its manifest, and with ``verify`` its files' hashes checked; errors as in ``read_bundle``."""
        return read_bundle(self.directory, verify=verify)


def shipped() -> list[Named]:
    """The bundles that come with edgeface, by name."""
    defaults = set(weights.DEFAULTS.values())
    found: dict[str, Path] = {}
    for folder in weights.directories():
        for path in _bundle_directories(folder):
            found.setdefault(path.name, path)
    return [Named(name, path, name in defaults) for name, path in sorted(found.items())]


def deployed() -> list[Named]:
    """The bundles that 'edgeface deploy' brought to this machine, by name, without those that have a shipped one's."""
    names = {entry.name for entry in shipped()}
    found = _bundle_directories(bundles_directory())
    return [Named(path.name, path, False) for path in found if path.name not in names]


def is_for_board() -> bool:
    """Whether this edgeface is without checkpoints, and without the bundles that a wheel lacks: those are no longer, or
    never were, in a clone beside it."""
    return not shipped_checkpoints()


def shipped_checkpoints() -> dict[str, Path]:
    """The checkpoints that come with edgeface, by their names without ".pt"."""
    found: dict[str, Path] = {}
    for folder in weights.directories():
        for path in folder.glob("*.pt"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(
    model: str | Path, engine: str | None = None, precision: str | None = None, *, best: Sequence[str] | None = None
) -> Path:
    """The bundle's directory, or the checkpoint, that a model argument means: the one place that decides it.

    A text is, in this order: a file or folder here; a shipped bundle ("mos_s-fp16-ncnn"), else one that was deployed to
    this machine; a shipped checkpoint as "mos_s.pt"; a model ("mos_s"), which means the bundle that serves this machine
    best where that is known (``runtime.preference``), else its default one; with ``engine`` and ``precision`` the first
    such one of that kind, and with engine "torch", or where it has no bundle, its checkpoint. "shipped:NAME" leaves out
    what is here. A ``Path`` is a path and nothing else. ``best``: bundles in the order in which they serve another
    machine.

    The log of this module says what was taken: as a warning where a shipped file stands in for one that is not here,
    or one here is in the way of a shipped one. Raises UnknownModelError with the choices, or with the way to what this
    edgeface was installed without, OptionError when the model has nothing for the engine or in the precision,
    BundleError for a folder without a bundle in it, or a shipped bundle that cannot be read, and CheckpointError for a
    file that does not begin as a checkpoint does.
    """
    if isinstance(model, Path):
        if is_there(model):
            check_file(model)
            return model
        raise UnknownModelError(f"{model}: no such bundle or checkpoint. {_choices()}")
    name = model.removeprefix(SHIPPED)
    is_known = name in _names() or name in _checkpoint_files()
    if name == model and is_there(Path(name)):
        return _found_here(name, is_known)
    shipped_path = _find_shipped(name, engine, precision, best)
    if shipped_path is None:
        raise _unknown(name, engine, precision, is_known)
    if name == model and name.endswith(_CHECKPOINT):
        path = "" if shipped_path.parent == weights.directory() else f", {shipped_path}"
        _log.warning("%s: no such file here: taking the checkpoint of that name that comes with edgeface%s", name, path)
    else:
        _log.info("%s: taking %s", model, shipped_path)
    return shipped_path


def _found_here(name: str, is_shipped_too: bool) -> Path:
    path = Path(name)
    check_file(path)
    kind = "folder" if path.is_dir() else "file"
    other = f"; the one that comes with edgeface is {SHIPPED}{name}" if is_shipped_too else ""
    if path.is_dir() and not (path / MANIFEST).exists():
        runs = sorted(path.glob(f"*.best{_CHECKPOINT}"))
        step = f"give {runs[0]}, the checkpoint in it" if runs else "give a bundle's folder or a checkpoint"
        raise BundleError(f"{name}: this folder is no bundle, it has no {MANIFEST}: {step}{other}")
    if is_shipped_too:
        _log.warning("%s: taking the %s of that name here%s", name, kind, other)
    else:
        _log.info("%s: taking the %s here", name, kind)
    return path


def check_file(path: Path) -> None:
    """Raise CheckpointError for a file that is there and cannot be a checkpoint, before torch is imported to say so."""
    if path.is_file():
        with suppress(OSError):     # whoever reads it says why it cannot be read
            if not is_of_torch(path):
                raise CheckpointError(f"{path}: {why_no_checkpoint(path)}")


def _find_shipped(
    name: str, engine: str | None, precision: str | None, best: Sequence[str] | None
) -> Path | None:
    bundles = {entry.name: entry for entry in shipped()}
    bundles |= {entry.name: entry for entry in deployed() if f"{entry.name}-".startswith(f"{name}-")}
    checkpoints = shipped_checkpoints()
    if name in bundles:
        return bundles[name].directory
    if name.endswith(_CHECKPOINT):
        return checkpoints.get(name.removesuffix(_CHECKPOINT))
    if engine == "torch":
        return None if precision else checkpoints.get(name)
    default = weights.DEFAULTS.get(name, "")
    if default not in bundles:
        order: Iterable[str] = bundles
    else:
        # Those of the model that are not among the best come last; whatever comes first is seldom passed by.
        chosen = _served_best(name, bundles) if best is None else _of_model(name, best, bundles, "best of that board")
        order = itertools.chain((entry.name for entry in chosen), (default, *bundles))
    if engine is None and precision is None:
        taken = next((each for each in order if each in bundles), None) if default in bundles else None
        return checkpoints.get(name) if taken is None else bundles[taken].directory
    for each in order:
        bundle = bundles[each].read() if each in bundles else None
        if bundle and (bundle.model, bundle.engine, bundle.precision) == (
            name, engine or bundle.engine, precision or bundle.precision
        ):
            return bundles[each].directory
    return None


def _served_best(model: str, bundles: Mapping[str, Named]) -> Iterator[Named]:
    """The bundles of ``model`` that this machine can run, in the order in which they serve it; none where that is not
    known."""
    preference = preference_here()
    for entry in _of_model(model, preference.best.get(model, ()), bundles, f"{preference.board}.toml: best"):
        engine = entry.read().engine
        if is_installed(engine):
            yield entry
        else:
            _log.info("%s would serve this machine best, but its engine %s is not installed", entry.name, engine)


def _of_model(model: str, names: Sequence[str], bundles: Mapping[str, Named], where: str) -> Iterator[Named]:
    """Those of ``names`` that are bundles of ``model``; a warning says which are not, and ``where`` they stand."""
    for name in names:
        if name in bundles and bundles[name].read().model == model:
            yield bundles[name]
        elif is_for_board() and name not in bundles and (kind := _form(name)) and kind[0] == model:
            _log.info("%s would serve better: %s", name, _way_to_a_board(name))
        else:
            _log.warning(
                "%s: %s: no bundle %s of that model comes with edgeface: taking another; 'edgeface bench %s --all "
                "--keep-best' chooses anew", where, model, name, model,
            )


def _unknown(name: str, engine: str | None, precision: str | None, is_known: bool) -> EdgefaceError:
    """The error for a name that means nothing here."""
    ships = is_known or weights.DEFAULTS.get(name) in weights.figures()
    if not ships and name in _trainable():
        return UnknownModelError(
            f"{name} comes without weights: train it with 'edgeface train {name}', or choose another. {_choices()}"
        )
    if (name.endswith(_CHECKPOINT) or (ships and engine == "torch")) and is_for_board():
        return UnknownModelError(
            f"{name}: no such checkpoint here, and this edgeface has none{_clone_is_gone()}: give a checkpoint's path "
            "(edgeface's own lie in edgeface/weights of a clone), or keep the clone that you install from"
        )
    if ships and is_for_board():
        form = f"{name}-{precision or 'int8'}-{engine or 'ncnn'}"
        if not weights.is_in_wheels(form):
            return UnknownModelError(f"{form}: {_way_to_a_board(form)}")
    if is_known:
        wanted = [f"for the engine {engine}"] * bool(engine) + [f"in {precision}"] * bool(precision)
        step = " or ".join(["engine"] * bool(engine) + ["precision"] * bool(precision))
        return OptionError(f"model {name} does not come with a bundle {' '.join(wanted)}: choose another {step}")
    if len(Path(name).parts) > 1:
        return UnknownModelError(f"{name}: no such bundle or checkpoint. {_choices()}")
    if (forms := _shipped_forms(name)) is not None:
        return UnknownModelError(forms)
    if name.endswith(_CHECKPOINT):
        known = unknown_name("checkpoint", name, _checkpoint_files())
        return UnknownModelError(f"{name}: no such file here, and {known}")
    if Path(name).suffix:
        return UnknownModelError(f"{name}: no such bundle or checkpoint. {_choices()}")
    return UnknownModelError(unknown_name("model", name, _names()))


def _shipped_forms(name: str) -> str | None:
    """Of a model that ships, named in a form that does not: the forms that do, and the command for this one. None for
    any other name."""
    model, precision, engine = _form(name) or ("", "", "")
    own = [entry.name for entry in shipped() if entry.name.startswith(f"{model}-")]
    if not own and weights.DEFAULTS.get(model) not in weights.figures():
        return None
    if is_for_board():
        return f"{name}: {_way_to_a_board(name)}"
    ends = ("_int8", "_qat") if precision == "int8" else ("",)
    stem = next((f"{model}{end}" for end in ends if f"{model}{end}" in shipped_checkpoints()), None)
    step = ""
    if stem is not None:
        step = f", or make it: edgeface convert {stem}{_CHECKPOINT} --target {engine} --precision {precision}"
    return f"{name} does not come with edgeface: take {' or '.join(own)}{step}"


def _form(name: str) -> tuple[str, str, str] | None:
    """Model, precision and engine of a bundle's name; None where it is not made of them."""
    model, _, rest = name.partition("-")
    precision, _, engine = rest.partition("-")
    return (model, precision, engine) if precision in _PRECISIONS and engine in _TARGETS else None


def _way_to_a_board(name: str) -> str:
    bring = f"'edgeface deploy {name} --device BOARD'"
    if name not in weights.figures() and (form := _form(name)) and (usual := weights.DEFAULTS.get(form[0])):
        return (
            f"no edgeface comes with this bundle: take {usual}, or make it on another computer "
            f"and bring it with {bring}"
        )
    return (
        f"this edgeface has no such bundle, to save room{_clone_is_gone()}: bring it from another computer with "
        f"{bring}, or install here from a clone and keep that"
    )


def _clone_is_gone() -> str:
    clone = weights.clone_directory()
    if clone is None or clone.is_dir():
        return ""
    return f", and the clone it was installed from ({clone.parents[1]}) is gone"


def _checkpoint_files() -> list[str]:
    return [f"{stem}{_CHECKPOINT}" for stem in shipped_checkpoints()]


def _trainable() -> set[str]:
    """The models that a training is configured for. Their configurations are looked for and not imported, as a board
    has nothing that trains."""
    found = (Path(__file__).parents[1] / "training" / "configs").glob("*.toml")
    return {path.stem for path in found if path.stem != "qat"}


def _choices() -> str:
    return f"Models: {', '.join(_names()) or 'none'}."


def _bundle_directories(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"[!.]*/{MANIFEST}")) if is_there(folder) else []


def _names() -> list[str]:
    names = {entry.name for entry in (*shipped(), *deployed())} | set(shipped_checkpoints())
    return sorted(names | {model for model, bundle in weights.DEFAULTS.items() if bundle in names})
