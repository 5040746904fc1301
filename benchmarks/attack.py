"""Damaged bundles, pictures, checkpoints and recordings, each used in a process of its own, and what became of it.

    python benchmarks/attack.py --bundles 10000 --pictures 3000 --checkpoints 500 --streams 200    # hours
    python benchmarks/attack.py --bundles 50 --pictures 100 --checkpoints 20 --streams 10 --seed 7
    python benchmarks/attack.py --bundles 10000 --record attack.jsonl      # again after it was stopped: it goes on

Right is that a thing works or is refused by an EdgefaceError. Wrong is a signal, a process that is not done within 10
seconds of a processor (or 300 in all, so that a busy machine is not blamed on the item), more than 1 GB of memory, and
any other exception. Prints a count of each a kind, and exits with 1 when something was wrong; ``--keep DIR`` keeps what
was. An item is repeated by its kind, number and seed. ``--record FILE`` takes one JSON line an item, and what is in it
already is not attempted again.

A bundle's trial is a process that is forked, with all of its modules there; of one in 20 it is a Python that starts for
it, as users have it, and takes most of the item's time.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from damage import BUNDLES, DAMAGES

import edgeface.runtime.loading
import edgeface.runtime.trial
import edgeface.runtime.trial_child
from edgeface.errors import EdgefaceError
from edgeface.file_kinds import file_kind
from edgeface.images import read_image
from edgeface.videos import Video

LIMIT_S = 10.0
WAIT_LIMIT_S = 300.0
LIMIT_BYTES = 1 << 30
# Of bundles, one in so many is tried in a Python of its own.
STARTED = 20
WRONG = ("signal", "hang", "memory", "traceback")
_VERDICTS = ("works", "refused", *WRONG)
_REFUSED, _TRACEBACK = 3, 4


@dataclass(frozen=True)
class Outcome:
    """What became of one item: "works", "refused", or one of WRONG. ``text`` is the refusal or the traceback."""

    verdict: str
    text: str
    seconds: float
    peak_bytes: int


def use_bundle(path: Path) -> None:
    """As ``edgeface detect --size 320 --model`` does."""
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    try:
        detector = edgeface.runtime.loading.load(path, threads=1, size=320)
    except EdgefaceError as error:
        if "is no detector" not in str(error):
            raise
        detector = edgeface.runtime.loading.load("mos_s", refine=path, threads=1, size=320, engine=None)
    for score in (None, 0.02):
        if score is not None:
            detector.score = score
        detector(picture)


def use_bundle_forked(path: Path) -> None:
    """The same, but that the process of the trial is forked from this one."""
    edgeface.runtime.trial.run_in_child = _forked_trial
    use_bundle(path)


def _forked_trial(directory: Path, described: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """As ``trial.run_in_child``."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(described)
        given.seek(0)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(given.fileno(), 0)
                os.dup2(said.fileno(), 1)
                sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
                edgeface.runtime.trial_child.main(str(directory))
                code = 0
            finally:
                os._exit(code)
        status = _status(child, timeout_s)
        if status is None:
            raise subprocess.TimeoutExpired("trial", timeout_s)
        said.seek(0)
        return subprocess.CompletedProcess([], os.waitstatus_to_exitcode(status[0]), said.read())


def use_picture(path: Path) -> None:
    """Read it."""
    read_image(path)


def use_checkpoint(path: Path) -> None:
    """Load it and build its network."""
    from edgeface.models.checkpoint import load_checkpoint

    load_checkpoint(path).build()


def use_stream(path: Path) -> None:
    """Read every frame, or the picture that it has become."""
    if file_kind(path) == "picture":
        read_image(path)
        return
    for _ in Video(path).frames():
        pass


USES: dict[str, Callable[[Path], None]] = {
    **{f"bundle-{what}": use_bundle_forked for what in BUNDLES},
    "picture": use_picture,
    "checkpoint": use_checkpoint,
    "stream": use_stream,
}
_STARTED_USES = {f"bundle-{what}": use_bundle for what in BUNDLES}


def attempt(kind: str, number: int, seed: int, keep: Path | None = None) -> Outcome:
    """Damage and use one item in a child process; what was wrong is kept in ``keep``."""
    folder = Path(tempfile.mkdtemp(prefix="edgeface-attack-"))
    try:
        path = DAMAGES[kind](random.Random(f"{seed} {kind} {number}"), folder)
        use = USES[kind] if number % STARTED else _STARTED_USES.get(kind, USES[kind])
        outcome = _judged(use, path, folder / "said")
        if outcome.verdict in WRONG and keep is not None:
            kept = keep / f"{kind}-{number}"
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _numbered(kind: str, seed: int, keep: Path | None, number: int) -> Outcome:
    return attempt(kind, number, seed, keep)


def _judged(use: Callable[[Path], None], path: Path, said: Path) -> Outcome:
    child = os.fork()
    if child == 0:
        _child(use, path, said)
    ended = _status(child, WAIT_LIMIT_S)
    if ended is None:
        return Outcome("hang", f"not done within {WAIT_LIMIT_S:g} s", WAIT_LIMIT_S, 0)
    return _verdict(*ended, said)


def _status(child: int, timeout_s: float) -> tuple[int, resource.struct_rusage] | None:
    """How a child ended and what it used; None where it was not done in time, and is killed."""
    began_s = time.monotonic()
    while time.monotonic() < began_s + timeout_s:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.wait4(child, 0)
    return None


def _verdict(status: int, usage: resource.struct_rusage, said: Path) -> Outcome:
    # With those that it waited for, as for the trial of a bundle.
    seconds, peak_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    text = said.read_text(errors="replace").strip() if said.exists() else ""
    last = text.splitlines()[-1] if text else ""
    is_over = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
    if seconds > LIMIT_S or is_over:
        return Outcome("hang", f"not done after {seconds:.1f} s of a processor", seconds, peak_bytes)
    if os.WIFSIGNALED(status):
        return Outcome("signal", signal.Signals(os.WTERMSIG(status)).name, seconds, peak_bytes)
    code = os.WEXITSTATUS(status)
    if code not in (0, _REFUSED):
        return Outcome("traceback", text or f"exit {code}", seconds, peak_bytes)
    if peak_bytes > LIMIT_BYTES:
        return Outcome("memory", f"{peak_bytes >> 20} MB; {last}", seconds, peak_bytes)
    return Outcome("refused" if code else "works", last, seconds, peak_bytes)


def _child(use: Callable[[Path], None], path: Path, said: Path) -> None:
    code = 0
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit_s = int(LIMIT_S) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        use(path)
    except EdgefaceError as error:
        code = _REFUSED
        said.write_text(f"{type(error).__name__}: {error}")
    except BaseException:
        code = _TRACEBACK
        said.write_text(traceback.format_exc())
    os._exit(code)


class Record:
    """What became of every item, by kind, seed and number; in a file, where there is one, as soon as it is known."""

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._known = path, dict[tuple[str, int, int], Outcome]()
        if path is not None and path.exists():
            for line in map(json.loads, path.read_text().splitlines()):
                key = line.pop("kind"), line.pop("seed"), line.pop("number")
                self._known[key] = Outcome(**line)

    def missing(self, kind: str, seed: int, count: int) -> list[int]:
        """The numbers below ``count`` that are not known."""
        return [number for number in range(count) if (kind, seed, number) not in self._known]

    def add(self, kind: str, seed: int, number: int, outcome: Outcome) -> None:
        """Keep one."""
        self._known[kind, seed, number] = outcome
        if self._path is not None:
            line = {"kind": kind, "seed": seed, "number": number} | asdict(outcome)
            with self._path.open("a") as stream:
                stream.write(json.dumps(line) + "\n")

    def of(self, kind: str, seed: int, count: int) -> list[Outcome]:
        """Those of the numbers below ``count``, which are all known."""
        return [self._known[kind, seed, number] for number in range(count)]


def attack(
    counts: dict[str, int], seed: int, workers: int, keep: Path | None, say: Callable[[str], None],
    record: Record | None = None,
) -> int:
    """Attempt ``counts`` items a kind, and say the counts of each verdict; the number of those that went wrong."""
    wrong = 0
    record = Record() if record is None else record
    for kind, count in counts.items():
        if not count:
            continue
        numbers = record.missing(kind, seed, count)
        # Forked, and of one thread each: a thread that holds a lock would leave it locked in an item's process.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            outcomes = pool.map(partial(_numbered, kind, seed, keep), numbers)
            for number, outcome in zip(numbers, outcomes, strict=True):
                record.add(kind, seed, number, outcome)
        wrong += _say(kind, record.of(kind, seed, count), say)
    return wrong


def _say(kind: str, outcomes: Sequence[Outcome], say: Callable[[str], None]) -> int:
    """A line with the counts, and one for each that went wrong; how many those are."""
    tally = Counter(outcome.verdict for outcome in outcomes)
    slowest, largest = max(o.seconds for o in outcomes), max(o.peak_bytes for o in outcomes)
    say(f"{kind:16}{len(outcomes):7} items: " + ", ".join(f"{tally[name]} {name}" for name in _VERDICTS)
        + f"; slowest {slowest:.1f} s of a processor, largest {largest >> 20} MB")
    for number, outcome in enumerate(outcomes):
        if outcome.verdict in WRONG:
            say(f"  {kind} {number}: {outcome.verdict}: {outcome.text}")
    return sum(tally[name] for name in WRONG)


def split(bundles: int, pictures: int, checkpoints: int, streams: int) -> dict[str, int]:
    """Items a kind: bundles are spread over the ways to damage one."""
    shares = [bundles // len(BUNDLES) + (i < bundles % len(BUNDLES)) for i in range(len(BUNDLES))]
    named = {f"bundle-{what}": share for what, share in zip(BUNDLES, shares, strict=True)}
    return named | {"picture": pictures, "checkpoint": checkpoints, "stream": streams}


@click.command()
@click.option("--bundles", default=50, show_default=True)
@click.option("--pictures", default=100, show_default=True)
@click.option("--checkpoints", default=20, show_default=True)
@click.option("--streams", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for what went wrong.")
@click.option("--record", type=click.Path(path_type=Path), help="A file for what became of each, to go on with.")
def main(
    bundles: int, pictures: int, checkpoints: int, streams: int, seed: int, workers: int, keep: Path | None,
    record: Path | None,
) -> None:
    """Use damaged things, and count what became of them."""
    if checkpoints:
        import torch

        torch.set_num_threads(1)
    if bundles:
        # Once, and not in every item's process.
        for module in ("ncnn", "ai_edge_litert.interpreter"):
            importlib.import_module(module)
    cv2.setNumThreads(1)
    os.environ["OPENCV_LOG_LEVEL"], os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "SILENT", "-8"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache        # nothing is known to run here already
        counts = split(bundles, pictures, checkpoints, streams)
        wrong = attack(counts, seed, workers, keep, click.echo, Record(record))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
