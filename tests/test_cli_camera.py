"""``edgeface camera`` and ``edgeface.stream`` as users run them: in processes, on files, and told to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import edgeface
from detect_command import clip, error_lines, lines_of
from edgeface.errors import InputError, OptionError, UnknownModelError, UnknownSourceError

Camera = Callable[..., Result]
LONG_S = 60.0


@pytest.fixture
def camera(here: Path, tiny_bundle: Path) -> Camera:
    """Runs ``edgeface camera`` in ``here`` with the small bundle."""
    from edgeface.cli import main

    def run(*arguments: str | Path) -> Result:
        options = ["camera", "--model", str(tiny_bundle), "--threads", "1", *map(str, arguments)]
        return CliRunner().invoke(main, options)

    return run


def process(*arguments: str | Path, model: Path, **options: Any) -> subprocess.Popen[bytes]:
    """``edgeface camera`` in a process of its own."""
    command = [sys.executable, "-m", "edgeface", "camera", "--model", model, "--threads", "1", *arguments]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, **options)


def frames_in(text: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(text) if line["type"] == "frame"]


def test_a_file_is_looked_at_frame_by_frame_and_ends_the_run(
    camera: Camera, here: Path, astronaut: NDArray[np.uint8]
) -> None:
    clip(here / "clip.avi", astronaut, 7, "MJPG")
    result = camera("clip.avi", "--every-frame", "--score", "0.001", "--no-track", "--json", "faces.jsonl")
    assert result.exit_code == 0, result.stderr
    lines = lines_of((here / "faces.jsonl").read_text())
    assert [line["state"] for line in lines if line["type"] == "state"] == ["offline", "online"]
    frames = [line for line in lines if line["type"] == "frame"]
    assert [line["frame"] for line in frames] == list(range(7))
    assert all((line["width"], line["height"]) == (512, 512) for line in frames)
    assert any(line["faces"] for line in frames)
    assert result.stdout.splitlines()[-1].startswith("7 frames, ")


def test_the_faces_are_those_that_detect_finds(
    camera: Camera, here: Path, astronaut: NDArray[np.uint8], tiny_bundle: Path
) -> None:
    clip(here / "clip.avi", astronaut, 2, "MJPG")
    camera("clip.avi", "--every-frame", "--score", "0.001", "--no-track", "--json", "camera.jsonl")
    subprocess.run(
        [sys.executable, "-m", "edgeface", "detect", "--model", str(tiny_bundle), "--no-draw", "--score", "0.001",
         "--json", "detect.jsonl", "clip.avi"],
        check=True, timeout=LONG_S,
    )
    of_camera = frames_in((here / "camera.jsonl").read_text())
    of_detect = lines_of((here / "detect.jsonl").read_text())
    for ours, theirs in zip(of_camera, of_detect, strict=True):
        for face in ours["faces"]:
            assert face.pop("track") is None
            assert face.pop("seen") is True
        assert ours["faces"] == theirs["faces"] != []


def test_json_on_standard_output_is_alone_there(here: Path, tiny_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeface", "camera", "--source", "demo", "--model", str(tiny_bundle), "--json", "-",
         "--max-frames", "3", "--width", "160", "--height", "120"],
        capture_output=True, timeout=LONG_S, check=True,
    )
    frames = frames_in(done.stdout.decode())
    assert len(frames) == 3
    assert all((line["width"], line["height"]) == (160, 120) for line in frames)
    assert done.stderr.decode().splitlines()[-1] == "edgeface: demo: online"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(here: Path, tiny_bundle: Path, sent: signal.Signals) -> None:
    """Within 2 seconds on an idle machine; here it has to be an orderly end, with the source's process gone."""
    started = process("demo", "--json", "faces.jsonl", model=tiny_bundle, stdout=subprocess.PIPE)
    target = here / "faces.jsonl"
    deadline_s = time.monotonic() + LONG_S
    while (not target.exists() or target.read_text().count("\n") < 5) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    tasks = Path(f"/proc/{started.pid}/task").glob("*/children")
    (source,) = [child for path in tasks for child in path.read_text().split()]
    started.send_signal(sent)
    out, complaints = started.communicate(timeout=LONG_S)
    assert started.returncode == 0
    assert complaints.decode().splitlines() == ["edgeface: demo: online"]
    assert "frames" in out.decode()
    text = target.read_text()
    assert text.endswith("\n")
    assert len(frames_in(text)) >= 3
    assert not Path("/proc", source).exists()


def test_a_signal_ends_a_run_that_waits_for_a_camera(here: Path, tiny_bundle: Path) -> None:
    started = process("/dev/video97", "--json", "faces.jsonl", model=tiny_bundle)
    target = here / "faces.jsonl"
    deadline_s = time.monotonic() + LONG_S
    while (not target.exists() or "no such device" not in target.read_text()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, complaints = started.communicate(timeout=LONG_S)
    assert started.returncode == 0
    (line,) = complaints.decode().splitlines()
    assert line.startswith("edgeface: offline: /dev/video97: no such device: plug the camera in")
    assert line.endswith("next try in 1 s")


def test_a_reader_that_leaves_ends_the_run_quietly(here: Path, tiny_bundle: Path) -> None:
    started = process("demo", "--json", "-", model=tiny_bundle, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.wait(LONG_S) == 1
    assert started.stderr is not None
    assert started.stderr.read().decode().splitlines() in ([], ["edgeface: demo: online"])
    started.stderr.close()


@pytest.mark.parametrize(("arguments", "exit_code", "words"), [
    (("--loop",), 2, "--loop is for a file or folder: name one"),
    (("deemo",), 2, "no source 'deemo'. Did you mean 'demo'?"),
    (("none.mp4",), 3, "none.mp4: no such file"),
    (("clip.mp4",), 3, "clip.mp4: the video is cut short"),
    (("demo", "--pixel-format", "yuyv"), 2, "demo: a source of the kind demo takes no pixel format"),
    (("demo", "--no-track", "--detect-every", "3"), 2, "only where tracking fills in"),
    (("demo", "--json", "no/folder/x.jsonl"), 10, "no/folder/x.jsonl: cannot be written: No such file"),
    (("/dev/video97", "--give-up", "0.5"), 13, "/dev/video97: no such device"),
])
def test_what_cannot_work_is_one_line(
    camera: Camera, here: Path, astronaut: NDArray[np.uint8], arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    whole = clip(here / "whole.mp4", astronaut[:64, :64], 10).read_bytes()
    (here / "clip.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    result = camera(*arguments)
    assert result.exit_code == exit_code
    assert words in error_lines(result)[-1]


def test_limits_end_the_run(camera: Camera) -> None:
    result = camera("demo", "--max-frames", "3", "--width", "160", "--height", "120")
    assert result.exit_code == 0
    assert "capture to result: median" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("latencies_ms", [[31.0], [20.0, 40.0], [*map(float, range(101))]])
def test_the_end_of_a_run_imports_no_masked_arrays(latencies_ms: list[float]) -> None:
    code = f"""
        import sys
        from edgeface.cli.camera import _summary
        from edgeface.stream.loop import Totals
        print(_summary(Totals(frames={len(latencies_ms)}, latencies_ms={latencies_ms})))
        print("numpy.ma" in sys.modules)
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    said, imported = out.stdout.splitlines()
    median_ms, p95_ms = np.percentile(latencies_ms, (50, 95))
    assert said.endswith(f"capture to result: median {median_ms:.1f} ms, 95 % within {p95_ms:.1f} ms")
    assert imported == "False"


def test_python_gets_frames_and_faces_and_closing_closes_all(here: Path, tiny_bundle: Path) -> None:
    threads = threading.active_count()
    frames = edgeface.stream("demo", model=tiny_bundle, threads=1, score=0.0, width=160, height=120)
    frame, faces = next(frames)
    assert frame.image.shape == (120, 160, 3)
    assert faces.boxes.shape == (len(faces), 4)
    assert faces.tracks.shape == (len(faces),)
    assert frame.status.state == "online"
    assert threading.active_count() > threads
    frames.close()  # type: ignore[attr-defined]  # an Iterator to users, a generator in fact
    deadline_s = time.monotonic() + LONG_S
    while threading.active_count() > threads and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_python_needs_no_guard_around_its_main_module(here: Path, tiny_bundle: Path) -> None:
    """The few lines of the README are a program, and are not run again in the source's process."""
    Path("robot.py").write_text(textwrap.dedent(f"""
        import edgeface
        print("started")
        for frame, faces in edgeface.stream("demo", model={str(tiny_bundle)!r}, threads=1, width=160, height=120):
            print(frame.number, len(faces))
            break
    """))
    # A file that would hide a module of the standard library from the capture process, if it looked here.
    Path("socket.py").write_text("raise SystemExit('the wrong socket')")
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "robot.py"], capture_output=True, text=True,
        timeout=LONG_S, check=True, env={**os.environ, "PYTHONPATH": str(Path(edgeface.__file__).parents[1])},
    )
    assert done.stdout.splitlines()[0] == "started"
    assert len(done.stdout.splitlines()) == 2


def test_python_hears_of_mistakes_at_once(here: Path) -> None:
    with pytest.raises(UnknownSourceError, match="no source"):
        edgeface.stream("deemo")
    with pytest.raises(UnknownModelError):
        edgeface.stream("demo", model="none")
    with pytest.raises(OptionError, match="only where tracking fills in"):
        edgeface.stream("demo", track=False, detect_every=2)
    with pytest.raises(InputError, match="no such file"):
        edgeface.stream(here / "none.mp4")


def test_the_package_stays_a_package() -> None:
    import edgeface.stream.loop as loop

    assert callable(edgeface.stream)
    assert loop.Loop.__module__ == "edgeface.stream.loop"


def test_a_number_is_a_camera_for_python_too(here: Path) -> None:
    frames = edgeface.stream(97, model="mos_s")
    frames.close()  # type: ignore[attr-defined]  # as above


def test_help_loads_neither_numpy_nor_opencv() -> None:
    script = (
        "import sys\nfrom edgeface.cli import main\n"
        "try:\n    main(['camera', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps([m for m in ('numpy', 'cv2', 'ncnn') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", "import json\n" + script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_cascades_settings_come_from_the_file_as_well(camera: Camera, here: Path) -> None:
    (here / "camera.toml").write_text('[source]\nsource = "demo"\n[detector]\nthresholds = [0.5]\n')
    result = camera("--config", "camera.toml", "--check")
    assert result.exit_code == 2
    assert "is no cascade, it has one threshold" in result.output
    for line in ("thresholds = [2.0]", "min_face = 0.5", "candidates = 0"):
        (here / "camera.toml").write_text(f'[source]\nsource = "demo"\n[detector]\n{line}\n')
        result = camera("--config", "camera.toml", "--check")
        assert result.exit_code == 2
        assert line.split()[0] in result.output


def test_best_shots_need_a_model_with_landmarks(here: Path, tiny_bundle: Path) -> None:
    from edgeface.cli import main

    shutil.copytree(tiny_bundle, here / "bare")
    manifest = here / "bare" / "bundle.json"
    content = json.loads(manifest.read_text())
    for level in content["stages"][0]["levels"]:
        level["landmarks"] = None
    manifest.write_text(json.dumps(content))
    result = CliRunner().invoke(main, ["camera", "demo", "--model", str(here / "bare"), "--best-shots", "shots"])
    assert result.exit_code == 2
    assert "--best-shots turns faces upright by their landmarks" in result.output
    assert "add --refine tcnn" in result.output
    assert not (here / "shots").exists()


def test_missing_masks_need_a_model_that_tells_them(camera: Camera) -> None:
    told = ("--exec", "true", "--on", "mask_missing", "--check")
    result = camera("demo", *told)
    assert result.exit_code == 2
    assert "--on mask_missing needs a model that tells masks" in result.output
    assert camera("demo", "--refine", "tcnn-int8-ncnn", *told).exit_code == 0
