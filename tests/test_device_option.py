"""``pytest --device``: what it says, what it selects, and how a run ends that cannot begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _pytest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=240, check=False, env=os.environ | environment,
    )


def test_an_emulated_board_is_in_the_header_with_each_processor() -> None:
    done = _pytest("--device", "rk3399", "--collect-only")
    assert "\nrk3399: emulated cortex-a72\nrk3399: emulated cortex-a53\n" in done.stdout


def test_the_device_tests_alone_run_once_on_each_processor() -> None:
    done = _pytest("--device", "rk3399", "--collect-only", "-q")
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    modules = {test.partition("::")[0] for test in tests}
    assert modules == {str(path.relative_to(ROOT)) for path in (ROOT / "tests/device").glob("test_*.py")}
    assert sum("cortex-a72" in test for test in tests) == sum("cortex-a53" in test for test in tests) == len(tests) / 2


def test_a_board_with_an_address_is_in_the_header(tmp_path: Path) -> None:
    own = tmp_path / "edgeface" / "devices"
    own.mkdir(parents=True)
    (own / "rk3399.toml").write_text('address = "robot1"\n')
    done = _pytest("--device", "rk3399", "--collect-only", "-v", XDG_CONFIG_HOME=str(tmp_path))
    assert "\nrk3399: board at robot1\n" in done.stdout


def test_without_it_the_device_tests_are_as_others() -> None:
    done = _pytest("--collect-only", "-q", "tests/device", "tests/test_nms.py")
    assert done.returncode == 0
    assert "[host-" in done.stdout or "[host]" in done.stdout
    assert "tests/test_nms.py::" in done.stdout


def test_paths_say_more_than_the_device() -> None:
    done = _pytest("--device", "rk3399", "--collect-only", "-q", "tests/test_nms.py")
    assert "tests/test_nms.py::" in done.stdout
    assert "tests/device" not in done.stdout


@pytest.mark.parametrize(
    ("device", "environment", "line"),
    [
        ("rk3398", {}, "ERROR: no device 'rk3398'. Did you mean 'rk3399'? Devices: "),
        ("rk3399", {"PATH": "/nowhere"}, "ERROR: qemu-aarch64 is not installed: "),
    ],
)
def test_a_run_that_cannot_begin_ends_with_one_line(device: str, environment: dict[str, str], line: str) -> None:
    done = _pytest("--device", device, **environment)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    said = done.stdout + done.stderr
    assert line in said
    assert ("sudo apt-get install qemu-user" in said) == (device == "rk3399")
    assert "Traceback" not in said
    assert "passed" not in said
    assert "skipped" not in said
