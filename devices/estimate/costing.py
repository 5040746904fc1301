"""What the blocks of a region cost on a core, by LLVM's model of it: cycles, and what the instructions are.

Each block is costed as if it ran again and again, so that what an iteration waits for of the one before counts: right
for the loops in which nets spend their time. There are no caches in this, and no branch is ever guessed wrongly.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from edgeface.devices.emulation.programs import find_program, locked, run
from edgeface.devices.emulation.root import cache_directory
from edgeface.devices.estimate.counting import DIGITS, Region

from edgeface.atomic import refused, write_bytes
from edgeface.errors import DeviceError, InstallError

# Of a region's executed instructions, the least share that is costed; the rest, thousands of blocks that run once or
# twice, is taken to cost what the costed ones do.
COVERAGE = 0.997
ITERATIONS = 40
_BATCH = 400        # blocks a process
_PROCESSES = 2
_TIMEOUT_S = 300.0
_FORMAT = 1
_NEWEST, _OLDEST = 30, 19    # of LLVM; before, llvm-mca ended at the first instruction that it did not know
_INSTALL = "an estimate needs its model of the core: sudo apt-get install llvm-19 (or newer: apt.llvm.org)"
_TARGET = "-triple=aarch64-linux-gnu"
# LLVM gives an A76 the model of an A57, which has half its units; a Neoverse N1 is an A76 with more cache.
_MODELLED_AS = {"cortex-a76": "neoverse-n1"}
_ENCODED = re.compile(r"^\t(.*?)\s*// encoding: \[(.*)\]$")
_REGISTER_BYTES = {"b": 1, "h": 2, "w": 4, "s": 4, "x": 8, "d": 8, "q": 16}
_VECTOR = re.compile(r"v\d+\.(\d*)([bhsd])")
_MULTIPLY = re.compile(r"(f?n?m(ul|la|ls|add|sub)x?2?|[su]m(ul|la?l|lsl|sub|add)l?h?2?|sq(r)?dmul\w+|sqdml\w+)")


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A block, once: cycles, instructions that LLVM's model does not know, and what loads, stores and multiplies.

    ``multiplies`` counts instructions, not lanes.
    """

    cycles: float
    unknown: int
    loads: int
    stores: int
    load_bytes: int
    store_bytes: int
    multiplies: int


class Counts(msgspec.Struct, frozen=True):
    """A region on one core. ``cycles`` is the model's, without a factor; ``covered`` the share of ``instructions`` that
    was costed and ``unknown`` those, of the costed blocks, that LLVM's model of the core does not know. Sums all."""

    cycles: float = 0.0
    instructions: int = 0
    covered: float = 1.0
    unknown: int = 0
    loads: float = 0.0
    stores: float = 0.0
    load_bytes: float = 0.0
    store_bytes: float = 0.0
    multiplies: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, sign: int) -> Counts:
        instructions = self.instructions + sign * other.instructions
        costed = self.covered * self.instructions + other.covered * other.instructions
        return Counts(
            self.cycles + sign * other.cycles,
            instructions,
            costed / max(1, self.instructions + other.instructions),
            self.unknown + sign * other.unknown,
            self.loads + sign * other.loads,
            self.stores + sign * other.stores,
            self.load_bytes + sign * other.load_bytes,
            self.store_bytes + sign * other.store_bytes,
            self.multiplies + sign * other.multiplies,
        )


@dataclass(frozen=True)
class Tools:
    """LLVM's programs and their version, "19.1.7"."""

    mca: Path
    mc: Path
    version: str


def find_tools() -> Tools:
    """The newest llvm-mca and llvm-mc on the PATH; raises InstallError with the line for apt."""
    names = [f"-{number}" for number in range(_NEWEST, _OLDEST - 1, -1)]
    mca = find_program([f"llvm-mca{name}" for name in (*names, "")], _INSTALL)
    said = run([mca, "--version"], what="llvm-mca cannot be run", timeout_s=_TIMEOUT_S, next_step=_INSTALL)
    found = re.search(r"LLVM version ((\d+)[\d.]*)", said)
    if found is None or int(found[2]) < _OLDEST:
        raise InstallError(f"{mca} is too old: {_INSTALL}")
    mc = find_program([mca.name.replace("-mca", "-mc"), "llvm-mc"], _INSTALL)
    return Tools(mca, mc, found[1])


def cost(regions: Sequence[Region], core: str) -> list[Counts]:
    """Each region on ``core``, as LLVM and QEMU name it ("cortex-a72").

    What was costed before is in the user's cache. Raises InstallError without LLVM's programs, DeviceError for a core
    that LLVM has no model of, and OutputError.
    """
    tools = find_tools()
    chosen = [_largest(region) for region in regions]
    known = _Known(core, tools)
    known.add(dict.fromkeys(words for blocks in chosen for words in blocks))
    return [
        _sum(region, {words: known[words] for words in blocks}) for region, blocks in zip(regions, chosen, strict=True)
    ]


def _largest(region: Region) -> list[str]:
    """The fewest blocks that reach COVERAGE."""
    total = sum(len(words) * times for words, times in region.items())
    chosen, reached = [], 0
    for words, times in sorted(region.items(), key=lambda item: -len(item[0]) * item[1]):
        if reached >= COVERAGE * total:
            break
        reached += len(words) * times
        chosen.append(words)
    return chosen


def _sum(region: Region, costed: dict[str, Block]) -> Counts:
    instructions = sum(len(words) // DIGITS * times for words, times in region.items())
    if not instructions:
        return Counts()
    covered = sum(len(words) // DIGITS * region[words] for words in costed) / instructions

    def total(field: str) -> float:
        of_costed: float = sum(getattr(block, field) * region[words] for words, block in costed.items())
        return of_costed / covered

    return Counts(
        total("cycles"), instructions, covered, sum(block.unknown * region[words] for words, block in costed.items()),
        total("loads"), total("stores"), total("load_bytes"), total("store_bytes"), total("multiplies"),
    )


class _Known:
    """Blocks that were costed for a core, here or in an earlier run."""

    def __init__(self, core: str, tools: Tools) -> None:
        self._core, self._tools = core, tools
        folder = cache_directory() / "estimate"
        self._path = folder / f"blocks-{core}-llvm-{tools.version}-{ITERATIONS}-{_FORMAT}.json"
        self._lock = folder / "lock"
        self._blocks = self._read()

    def __getitem__(self, words: str) -> Block:
        return self._blocks[_key(words)]

    def add(self, blocks: Iterable[str]) -> None:
        """Cost those that are not known yet, and keep them."""
        new = [words for words in blocks if _key(words) not in self._blocks]
        if not new:
            return
        costed = _cost_blocks(new, self._core, self._tools)
        found = {_key(words): block for words, block in zip(new, costed, strict=True)}
        with locked(self._lock):
            self._blocks = self._read() | self._blocks | found
            write_bytes(self._path, msgspec.json.encode(self._blocks))

    def _read(self) -> dict[str, Block]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Block])
        except (OSError, msgspec.DecodeError):
            return {}       # it is made anew


def _key(words: str) -> str:
    return hashlib.blake2b(words.encode(), digest_size=12).hexdigest()


def _cost_blocks(blocks: Sequence[str], core: str, tools: Tools) -> Iterator[Block]:
    text = _disassembled({word for words in blocks for word in _split(words)}, tools)
    batches = [blocks[i : i + _BATCH] for i in range(0, len(blocks), _BATCH)]
    with ThreadPoolExecutor(_PROCESSES) as pool:
        for batch, costs in zip(batches, pool.map(lambda b: _model(b, text, core, tools), batches), strict=True):
            for words, (cycles, unknown) in zip(batch, costs, strict=True):
                yield Block(cycles, unknown, *_contents([text.get(word, "") for word in _split(words)]))


def _split(words: str) -> list[str]:
    return [words[i : i + DIGITS] for i in range(0, len(words), DIGITS)]


def _disassembled(words: Iterable[str], tools: Tools) -> dict[str, str]:
    """By instruction in hex its text, as LLVM writes it; those that it does not know are left out."""
    little = {", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(word)[::-1]): word for word in words}
    given = "\n".join(little).replace(",", "")
    with _written(given) as path:
        said = run([tools.mc, "--disassemble", "--show-encoding", _TARGET, "-mattr=+all", path],
                   what="instructions cannot be disassembled", timeout_s=_TIMEOUT_S, next_step=_INSTALL)
    found = (_ENCODED.match(line) for line in said.splitlines())
    return {little[match[2].replace(",", ", ")]: match[1] for match in found if match is not None}


# A jump out of the block: the model would make a call 100 cycles long, and does not follow one anyway.
_JUMPS = frozenset({"bl", "blr", "br", "ret"})


def _model(
    blocks: Sequence[str], text: dict[str, str], core: str, tools: Tools
) -> list[tuple[float, int]]:
    """Cycles of each block, and how many of its instructions the model does not know; one process."""
    source = []
    for number, words in enumerate(blocks):
        lines = [text[word] for word in _split(words) if word in text]
        source += [f"# LLVM-MCA-BEGIN {number}", *("b #8" if _name(line) in _JUMPS else line for line in lines),
                   "# LLVM-MCA-END"]
    model = _MODELLED_AS.get(core, core)
    with _written("\n".join(source)) as path:
        said = run([tools.mca, "-m" + _TARGET[1:], f"-mcpu={model}", "-mattr=+all", f"-iterations={ITERATIONS}",
                    "-json", "-all-views=false", "-summary-view", "-skip-unsupported-instructions=any", path],
                   what=f"blocks cannot be costed for {core}", timeout_s=_TIMEOUT_S, next_step=_INSTALL)
    try:
        report = msgspec.json.decode(said, type=_Report)
    except msgspec.DecodeError as error:
        raise DeviceError(f"{tools.mca}: its report cannot be read ({error}): {_INSTALL}") from None
    # A block of nothing that the model knows is not in the report: a cycle an instruction.
    found = {region.Name: region for region in report.CodeRegions}
    costs = []
    for number, words in enumerate(blocks):
        length = len(words) // DIGITS
        region = found.get(str(number))
        known = 0 if region is None else len(region.Instructions)
        cycles = 0.0 if region is None else region.SummaryView.TotalCycles / ITERATIONS
        costs.append((cycles + length - known, length - known))
    return costs


class _Summary(msgspec.Struct):
    TotalCycles: int    # the JSON names it so


class _Costed(msgspec.Struct):
    Name: str
    Instructions: list[msgspec.Raw]
    SummaryView: _Summary


class _Report(msgspec.Struct):
    CodeRegions: list[_Costed]


def _contents(lines: Iterable[str]) -> tuple[int, int, int, int, int]:
    """Loads, stores, bytes of each, and multiplies."""
    loads = stores = load_bytes = store_bytes = multiplies = 0
    for line in lines:
        name, operands = _name(line), line.partition("\t")[2]
        if name.startswith(("ld", "st")):
            registers = operands.partition("[" if "{" not in operands else "}")[0]
            size = _transferred(name, registers)
            if name.startswith("ld"):
                loads, load_bytes = loads + 1, load_bytes + size
            else:
                stores, store_bytes = stores + 1, store_bytes + size
        elif _MULTIPLY.fullmatch(name):
            multiplies += 1
    return loads, stores, load_bytes, store_bytes, multiplies


def _transferred(name: str, registers: str) -> int:
    """Bytes that a load or store moves, by its name and the registers before its address."""
    vectors = _VECTOR.findall(registers)
    if vectors:
        return sum(int(lanes or 1) * _REGISTER_BYTES[kind] for lanes, kind in vectors)
    plain = re.findall(r"\b[bhsdqwx](?:\d+|zr)\b", registers)
    if name.startswith("st") and "x" in name:
        plain = plain[1:]       # the first says whether an exclusive store went through
    narrow = 1 if name.endswith("b") else 2 if name.endswith("h") else 4 if name.endswith("sw") else 0
    return sum(narrow or _REGISTER_BYTES[register[0]] for register in plain)


def _name(line: str) -> str:
    return line.partition("\t")[0].strip()


@contextmanager
def _written(text: str) -> Iterator[Path]:
    """``text`` as a file: programs are started without a standard input."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="edgeface-", suffix=".s") as file:
            file.write(text)
            file.flush()
            yield Path(file.name)
    except OSError as error:
        raise refused(tempfile.gettempdir(), error) from None
