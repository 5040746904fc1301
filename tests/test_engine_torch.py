"""torch as an engine: batches, where a quantised checkpoint rounds, and the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgeface
from edgeface.errors import EngineError, OptionError
from edgeface.faces import Faces
from edgeface.runtime.engines import Options, engine
from edgeface.runtime.engines.registry import BatchSession
from edgeface.runtime.loading import open_sessions
from edgeface.torch_engine import TorchSession, checkpoint_bundle
from int8_mos import save_int8_mos
from lively_mos import scenes

torch = pytest.importorskip("torch")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device here")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_int8_mos(tmp_path_factory.mktemp("quantised") / "tiny_int8.pt", channels=16)


def dense(checkpoint: Path, device: str = "cpu", *points: str) -> TorchSession:
    files = [checkpoint.name, "dense", *points]
    session = engine.get("torch")(checkpoint.parent, files, "data", Options(device=device))
    assert isinstance(session, TorchSession)
    return session


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def same_faces(one: Faces, two: Faces, atol: float = 1e-2) -> None:
    assert len(one) == len(two)
    np.testing.assert_allclose(one.boxes, two.boxes, atol=atol)
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-4)
    assert one.landmarks is not None
    assert two.landmarks is not None
    np.testing.assert_allclose(one.landmarks, two.landmarks, atol=atol)
    assert one.pose is not None
    assert two.pose is not None
    np.testing.assert_allclose(one.pose, two.pose, atol=atol)


def test_a_batch_gives_what_single_inputs_give(tiny_checkpoint: Path) -> None:
    session = dense(tiny_checkpoint)
    assert isinstance(session, BatchSession)
    inputs = [noise(3, 64, 96, seed=seed) for seed in range(3)]
    for x, together, run in zip(inputs, session.compute_batch(inputs), session.run_batch(inputs), strict=True):
        alone = session.compute(x)
        assert together.keys() == alone.keys() == session.outputs
        for name, expected in alone.items():
            assert together[name].shape == expected.shape
            np.testing.assert_allclose(together[name], expected, atol=1e-4)
            np.testing.assert_allclose(run.output(name), expected, atol=1e-4)


def test_a_run_of_a_batch_knows_its_outputs(tiny_checkpoint: Path) -> None:
    (run,) = dense(tiny_checkpoint).run_batch([noise(3, 32, 32)])
    with pytest.raises(EngineError, match="has no output 'boxes'"):
        run.output("boxes")


def test_pictures_of_different_shapes_are_batched_and_keep_their_order(tiny_checkpoint: Path) -> None:
    detector = edgeface.load(tiny_checkpoint, threads=1, size=96)
    one, two, *_ = scenes(2)
    images = [one, two, one[:, ::-1].copy(), np.rot90(two).copy(), one]
    found = detector.batch(images)
    assert sum(len(faces) for faces in found) > 0
    for image, faces in zip(images, found, strict=True):
        same_faces(faces, detector(image))
    assert detector.batch([]) == []


def test_a_batch_on_an_engine_without_them_is_one_after_the_other(tiny_bundle: Path) -> None:
    detector = edgeface.load(tiny_bundle, threads=1)
    for image, faces in zip(scenes(2), detector.batch(scenes(2)), strict=True):
        np.testing.assert_array_equal(faces.boxes, detector(image).boxes)


def test_a_quantised_checkpoint_rounds_where_it_is_told(quantised: Path, tiny_checkpoint: Path) -> None:
    x = noise(3, 256, 256)
    floats, inputs, everywhere = (
        dense(path, "cpu", *points).run(x).output("score8")
        for path, points in ((tiny_checkpoint, ()), (quantised, ("inputs",)), (quantised, ("all",)))
    )
    assert (checkpoint_bundle(tiny_checkpoint).precision, checkpoint_bundle(quantised).precision) == ("fp32", "int8")
    assert checkpoint_bundle(quantised, "inputs").dense.files == [quantised.name, "dense", "inputs"]
    assert len({inputs.tobytes(), everywhere.tobytes(), floats.tobytes()}) == 3
    # A map that is rounded itself has few values, one behind which only inputs are rounded nearly as many as pixels.
    assert len(np.unique(everywhere)) <= 256
    assert len(np.unique(inputs)) > 512
    with pytest.raises(EngineError, match="cannot round at 'nowhere'"):
        dense(quantised, "cpu", "nowhere")


def test_a_quantised_checkpoint_detects(quantised: Path) -> None:
    detector = edgeface.load(quantised, threads=1, size=96)
    assert detector.bundle.precision == "int8"
    assert len(detector(scenes(1)[0])) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has a CUDA device here")
def test_a_device_that_is_not_there_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match=r"torch cannot use the device 'cuda' \(.+\): choose another, or cpu"):
        edgeface.load(tiny_checkpoint, device="cuda")


def test_a_device_that_cannot_be_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="torch cannot use the device 'toaster'"):
        edgeface.load(tiny_checkpoint, device="toaster")


def test_other_engines_run_on_the_cpu(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="the engine ncnn runs on the CPU, not on 'cuda'"):
        edgeface.load(tiny_bundle, device="cuda")


@needs_cuda
def test_cpu_and_cuda_agree(tiny_checkpoint: Path, quantised: Path) -> None:
    x = noise(3, 96, 128)
    for path in (tiny_checkpoint, quantised):
        on_cpu, on_gpu = (dense(path, device) for device in ("cpu", "cuda"))
        expected, found = on_cpu.compute(x), on_gpu.compute(x)
        for name in on_cpu.outputs:
            assert np.abs(expected[name] - found[name]).max() <= 1e-3 * np.ptp(expected[name]), (path.name, name)


@needs_cuda
def test_cpu_and_cuda_sessions_live_side_by_side(tiny_checkpoint: Path) -> None:
    bundle = checkpoint_bundle(tiny_checkpoint)
    both = [open_sessions(tiny_checkpoint.parent, bundle, 1, device=device)[0][0] for device in ("cpu", "cuda", "cpu")]
    maps = [session.run(noise(3, 32, 32)).output("score8") for session in both]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-3)
    np.testing.assert_array_equal(maps[0], maps[2])


@needs_cuda
def test_the_same_faces_on_both_devices(tiny_checkpoint: Path) -> None:
    detectors = [edgeface.load(tiny_checkpoint, size=96, device=device) for device in ("cpu", "cuda")]
    for on_cpu, on_gpu in zip(*(detector.batch(scenes(3)) for detector in detectors), strict=True):
        same_faces(on_cpu, on_gpu, atol=0.1)
