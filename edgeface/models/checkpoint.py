"""Checkpoints: a ``.pt`` that names its architecture and options, so that nothing else is needed to use it."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgeface.atomic import refused, replacing
from edgeface.checkpoint_start import is_of_torch, why_no_checkpoint
from edgeface.errors import CheckpointError, EdgefaceError
from edgeface.int8.network import Quantisation
from edgeface.int8.whole_weights import packed, unpacked
from edgeface.models.family import families
from edgeface.models.quantised import exact_state, quantised
from edgeface.models.seal import SealError, check_seal, seal
from edgeface.regular_files import IrregularFileError, open_regular

FORMAT = "edgeface-checkpoint"
# A version 1 file is a version 2 one that is not quantised; in one of version 3 the weights of int8 layers are whole
# numbers. A file is of the first that has what it needs, so that an older edgeface reads it where it can.
PLAIN, WHOLE = 2, 3
_READABLE = (1, PLAIN, WHOLE)
_PARTS = {"model": str, "options": dict, "state": dict, "metrics": dict, "made": dict, "licence": str}
# Times the size of its weights, which of a quantised network are folded together and fewer, that a network may have.
_MOST_FOLDED = 16


@dataclass(frozen=True)
class Checkpoint:
    """A network by name, with what it takes to build it and to know where it came from.

    ``options`` are the builder's keyword arguments, ``metrics`` figures with the part they were measured on,
    ``made`` how it was trained, ``licence`` what its training data allow. ``quantisation`` is None for a float network;
    else ``state`` is that of the deployed network with its scales.
    """

    model: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    quantisation: Quantisation | None = None

    def build(self) -> nn.Module:
        """The network with these weights, in eval mode; raises CheckpointError when they do not fit.

        A quantised one is in the mode "all" of edgeface.int8.modules.
        """
        builder = families.get(self.model).build
        try:
            with _Bounded(_MOST_FOLDED * sum(tensor.untyped_storage().nbytes() for tensor in self.state.values())):
                net = builder(**self.options)
            if self.quantisation is not None:
                net = quantised(net, self.quantisation)
            net.load_state_dict(self.state)
        except EdgefaceError:
            raise
        except _TooLargeError:
            large = f"weights do not fit {self.model} {self.options}: the network has many more"
            raise CheckpointError(large) from None
        except Exception as error:      # options and weights are the file's: whatever they make a builder raise
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise CheckpointError(f"weights do not fit {self.model} {self.options}: {reason}") from None
        return net.eval()


class _TooLargeError(Exception):
    """A network is being built that is far larger than its weights."""


class _Bounded(TorchFunctionMode):
    """Within it, layers may take ``most_bytes`` together; _TooLargeError before more is taken.

    The device meta would tell the size of a whole network as well. But torch has initialisers for it in Python alone,
    and the first of them loads its compiler, which costs every process 3 s.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left_bytes = most_bytes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones):
            self._left_bytes -= func(*args, **{**options, "device": "meta"}).nbytes
            if self._left_bytes < 0:
                raise _TooLargeError
        return func(*args, **options)


def finished(checkpoint: Checkpoint, net: nn.Module) -> Checkpoint:
    """The checkpoint with the state of ``net``, a quantised network whose scales are final (``exact_state``)."""
    return replace(checkpoint, state=exact_state(net))


def write_atomically(path: Path, content: Any) -> None:
    """``torch.save`` with a hash (``seal``) to a temporary name beside ``path``, then replace.

    Raises OutputError when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path.parent, error) from None
    with replacing(path) as temporary:
        try:
            # Given a path, torch takes the archive's name from it, and refuses ".edgeface-1", which has none.
            with temporary.open("wb") as stream:
                torch.save(content, stream)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its archive writer.
            raise refused(path, error if isinstance(error, OSError) else OSError(errno.ENOSPC, "disk full")) from None
        try:
            seal(temporary)
        except OSError as error:
            raise refused(path, error) from None


def read_untrusted(path: Path) -> dict[str, Any]:
    """A dict of plain types and tensors from a ``.pt``, by ``weights_only=True`` with no fallback.

    Its hash is checked first. Raises CheckpointError when the file is missing, damaged or holds anything else.
    """
    try:
        with open_regular(path) as stream:
            check_seal(stream)
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IrregularFileError as error:
        raise CheckpointError(f"{path}: {error.strerror}: give a checkpoint") from None
    except SealError as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint ({error}): copy it again") from None
    except Exception as error:      # torch and pickle raise nearly everything on damaged bytes
        raise CheckpointError(f"{path}: {_what_else(path, error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not an edgeface checkpoint: train one with 'edgeface train'")
    return content


def _what_else(path: Path, error: Exception) -> str:
    """What a file that torch does not load seems to be, by its first bytes, and what to do."""
    try:
        if isinstance(error, pickle.UnpicklingError) and is_of_torch(path):
            return "a PyTorch file of another program, with objects that are not loaded: give an edgeface checkpoint"
        return why_no_checkpoint(path)
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror}"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file is complete or not there. Raises OutputError."""
    state, largest = (checkpoint.state, {}) if checkpoint.quantisation is None else packed(checkpoint.state)
    write_atomically(
        path,
        {
            "format": FORMAT,
            "version": WHOLE if largest else PLAIN,
            "model": checkpoint.model,
            "options": checkpoint.options,
            "state": state,
            "largest": largest,
            "metrics": checkpoint.metrics,
            "made": checkpoint.made,
            "licence": checkpoint.licence,
            "quantisation": None if checkpoint.quantisation is None else asdict(checkpoint.quantisation),
        },
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running code from it; raises CheckpointError."""
    content = read_untrusted(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a PyTorch file of another program, not an edgeface checkpoint: train one with 'edgeface train'"
        )
    if content.get("version") not in _READABLE:
        raise CheckpointError(
            f"{path}: checkpoint version {content.get('version')!r}, this edgeface reads "
            f"{_READABLE[0]} to {_READABLE[-1]}: update edgeface, or train it again"
        )
    for name, kind in _PARTS.items():
        if name not in content:
            raise CheckpointError(f"{path}: has no {name!r}: copy it again")
        if not isinstance(content[name], kind):
            raise CheckpointError(f"{path}: its {name!r} is a {type(content[name]).__name__}: copy it again")
    if not all(isinstance(key, str) for part in ("options", "state") for key in content[part]):
        raise CheckpointError(f"{path}: its options or weights have names that are no text: copy it again")
    if not all(isinstance(tensor, Tensor) and tensor.layout == torch.strided for tensor in content["state"].values()):
        raise CheckpointError(f"{path}: its weights are not all tensors: copy it again")
    quantisation = _quantisation(content.get("quantisation"), path)
    largest = content.get("largest", {})
    try:
        state = unpacked(content["state"], largest)
    except (AttributeError, TypeError, ValueError):
        raise CheckpointError(f"{path}: its whole weights and their largest values differ: copy it again") from None
    return Checkpoint(**{name: content[name] for name in _PARTS} | {"state": state}, quantisation=quantisation)


def _quantisation(content: Any, path: Path) -> Quantisation | None:
    if content is None:
        return None
    try:
        return Quantisation(**content)
    except (TypeError, ValueError):
        raise CheckpointError(f"{path}: its quantisation is of another version: quantise it again") from None
