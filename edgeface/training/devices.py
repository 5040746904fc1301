"""Where a run computes: one CPU, one GPU, or several GPUs under torchrun, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from edgeface.errors import OptionError


@dataclass(frozen=True)
class Place:
    """This process's device, its rank among ``world`` processes, and the precision of the forward pass."""

    device: torch.device
    rank: int
    world: int
    precision: str

    @property
    def leads(self) -> bool:
        """Whether this process writes files and runs evaluations."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The forward pass's precision."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, dtype)


# One process on a CPU: where small nets are trained, on samples that are cut already.
ALONE = Place(torch.device("cpu"), 0, 1, "fp32")


def find_place(precision: str) -> Place:
    """Device and rank of this process; under torchrun it joins the group.

    ``precision`` auto is bf16 where the hardware multiplies it, fp16 on older GPUs, else fp32. Raises OptionError for
    fp16 on a CPU, which cannot train in it, and for an environment that torchrun did not make.
    """
    world = processes()
    rank = _number("RANK", 0, world - 1)
    if torch.cuda.is_available():
        device = torch.device("cuda", _number("LOCAL_RANK", 0, torch.cuda.device_count() - 1))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world > 1 and not distributed.is_initialized():
        try:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except ValueError as error:
            raise OptionError(f"WORLD_SIZE={world}: {error}: start it with torchrun, or unset WORLD_SIZE") from None
    if precision == "fp16" and device.type == "cpu":
        raise OptionError("run.precision fp16 needs a GPU: use bf16, fp32 or auto")
    if precision == "auto":
        precision = _best_precision(device)
    return Place(device, rank, world, precision)


def processes() -> int:
    """How many train together: torchrun's WORLD_SIZE, else 1. Raises OptionError."""
    return _number("WORLD_SIZE", 1, 1 << 16, least=1)


def _number(variable: str, default: int, most: int, *, least: int = 0) -> int:
    given = os.environ.get(variable, str(default))
    if not given.isascii() or not given.isdigit() or not least <= int(given) <= most:
        raise OptionError(f"{variable}={given}: is none of {least} to {most}: unset it, or start with torchrun")
    return int(given)


def _best_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "fp32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"
