"""A short run of benchmarks/attack.py: damaged things work or are refused, and nothing else happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).resolve().parents[1] / "benchmarks" / "attack.py"


@pytest.mark.parametrize(
    ("kind", "count"), [("bundles", 10), ("pictures", 60), ("checkpoints", 12), ("streams", 12)]
)
def test_damage_is_refused_or_does_no_harm(kind: str, count: int) -> None:
    if kind == "checkpoints":
        pytest.importorskip("torch")
    if kind == "bundles":
        pytest.importorskip("ai_edge_litert")
    none = [f"--{other}=0" for other in ("bundles", "pictures", "checkpoints", "streams") if other != kind]
    done = subprocess.run(
        [sys.executable, str(ATTACK), f"--{kind}={count}", *none], capture_output=True, text=True, check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout


def test_what_is_wrong_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ATTACK.parent))
    import attack

    def memory(_path: Path) -> None:
        bytearray(1100 << 20)

    def signalled(_path: Path) -> None:
        os.abort()

    def busy(_path: Path) -> None:
        while True:
            pass

    def mistaken(_path: Path) -> None:
        raise ValueError("escaped")

    monkeypatch.setattr(attack, "LIMIT_S", 4.0)
    for use, verdict in ((memory, "memory"), (signalled, "signal"), (busy, "hang"), (mistaken, "traceback")):
        monkeypatch.setitem(attack.USES, "picture", use)
        said: list[str] = []
        assert attack.attack({"picture": 1}, 0, 1, tmp_path, said.append) == 1
        assert f"1 {verdict}" in said[0]
        assert said[1].startswith(f"  picture 0: {verdict}")
    assert (tmp_path / "picture-0").is_dir()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ATTACK.parent))
    import attack

    seen = tmp_path / "seen"
    monkeypatch.setitem(attack.USES, "picture", lambda _path: seen.open("a").write("x"))
    for count in (2, 3):
        attack.attack({"picture": count}, 5, 1, None, lambda _line: None, attack.Record(tmp_path / "record.jsonl"))
    assert len(seen.read_text()) == 3
    said: list[str] = []
    attack.attack({"picture": 3}, 5, 1, None, said.append, attack.Record(tmp_path / "record.jsonl"))
    assert "3 works" in said[0]
    assert len(seen.read_text()) == 3
