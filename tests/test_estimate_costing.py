"""What blocks cost by LLVM's model of a core, and what is in them."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from edgeface.devices.estimate import costing
from edgeface.devices.estimate.costing import COVERAGE, Counts, cost, find_tools

from arm_code import without_programs
from edgeface.errors import DeviceError, InstallError

A72 = "cortex-a72"
ADD = "91000400"            # add x0, x0, #1
FMLA = "4e22cc20"           # fmla v0.4s, v1.4s, v2.4s
FMLAS = "4e22cc20" "4e22cc23" "4e22cc24" "4e22cc25"     # the same into v0, v3, v4, v5
CALL_AND_RETURN = "94000010" "d65f03c0"                 # bl #64; ret
UNKNOWN = "00000000"        # udf #0
NO_INSTRUCTION = "ffffffff"
LOADS = "3dc00020" "4cdf7800" "39400020" "a94007e0"     # ldr q0; ld1 {v0.4s}; ldrb w0; ldp x0, x1
STORES = "a90007e0" "8802fc20" "0d008020"               # stp x0, x1; stlxr w2, w0; st1 {v0.s}[0]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        find_tools()
    except InstallError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def costs(*blocks: str, core: str = A72) -> list[Counts]:
    return cost([Counter({block: 1}) for block in blocks], core)


def test_a_chain_waits_for_itself_and_independent_work_does_not() -> None:
    chain, four = costs(FMLA, FMLAS)
    assert chain.cycles >= 3
    assert four.cycles < 2 * chain.cycles
    assert (chain.instructions, four.instructions) == (1, 4)
    assert (chain.multiplies, four.multiplies) == (1, 4)


def test_an_addition_takes_a_cycle_on_each_core() -> None:
    for core in (A72, "cortex-a53"):
        (one,) = costs(ADD, core=core)
        assert 0.9 < one.cycles < 1.6


def test_calls_and_returns_cost_as_jumps_do() -> None:
    # llvm-mca takes 100 cycles for a call.
    (jumps,) = costs(CALL_AND_RETURN)
    assert 1 < jumps.cycles < 5


def test_what_loads_and_stores_move() -> None:
    loads, stores = costs(LOADS, STORES)
    assert (loads.loads, loads.load_bytes, loads.stores) == (4, 16 + 16 + 1 + 16, 0)
    assert (stores.stores, stores.store_bytes, stores.loads) == (3, 16 + 4 + 4, 0)


def test_instructions_without_a_model_are_counted_and_cost_a_cycle() -> None:
    alone, among, no_instruction = costs(UNKNOWN, UNKNOWN + ADD, NO_INSTRUCTION)
    assert (alone.unknown, alone.cycles) == (1, 1)
    assert (among.unknown, no_instruction.unknown) == (1, 1)
    assert among.cycles > 1.5
    (plain,) = costs(ADD)
    assert plain.unknown == 0


def test_executions_multiply_and_rare_blocks_are_taken_for_average_ones() -> None:
    (once,) = costs(ADD)
    # Longer by the number of additions, so that each is a block of its own.
    rare = {ADD * length: 1 for length in range(2, 12)}
    (region,) = cost([Counter({ADD: 1_000_000} | rare)], A72)
    assert region.instructions == 1_000_000 + sum(range(2, 12))
    assert COVERAGE <= region.covered < 1
    assert region.cycles == pytest.approx(once.cycles * region.instructions)


def test_an_empty_region_costs_nothing() -> None:
    assert cost([Counter()], A72) == [Counts()]


def test_sums_and_differences_of_counts() -> None:
    one, four = costs(FMLA, FMLAS)
    both = one + four
    assert (both.instructions, both.multiplies, both.covered) == (5, 5, 1)
    assert both.cycles == one.cycles + four.cycles
    assert (both - four).cycles == pytest.approx(one.cycles)


def test_what_was_costed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = costs(FMLA, LOADS)
    monkeypatch.setattr(costing, "_cost_blocks", None)
    assert costs(LOADS, FMLA) == before[::-1]
    (kept,) = (tmp_path / "cache").rglob("blocks-*.json")
    kept.write_text("{half")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert costs(FMLA, LOADS) == before


def test_a_core_without_a_model_is_an_error() -> None:
    with pytest.raises(DeviceError, match="cannot be costed for cortex-z80"):
        costs(ADD, core="cortex-z80")


def test_without_llvm_the_line_for_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(InstallError, match="sudo apt-get install llvm-19"):
        find_tools()


def test_an_old_llvm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setpriv = [name for name in ("setpriv", "sh") if shutil.which(name)]
    without_programs(monkeypatch, tmp_path / "bin", *setpriv)
    old = tmp_path / "bin" / "llvm-mca"
    old.write_text("#!/bin/sh\necho '  LLVM version 14.0.6'\n")
    old.chmod(0o755)
    with pytest.raises(InstallError, match="too old"):
        find_tools()
