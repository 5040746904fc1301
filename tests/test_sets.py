"""What a set is: set.toml, known sets, the weights that follow, and the dev part of sets that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edgeface.cli import main
from edgeface.data.sets import (
    SetDescription,
    describe,
    licence_of,
    open_data,
    remark_on_weights,
    settled_weights,
)
from edgeface.errors import DataError
from edgeface.models.checkpoint import load_checkpoint
from tiny_data import FACE_BOX, write_set

PICTURE = np.zeros((40, 60, 3), np.uint8)


def a_set(directory: Path, train: int, dev: int = 0) -> Path:
    face = {"box": [4, 4, 30, 34]}
    rows: list[tuple[str, NDArray[np.uint8], dict[str, Any]]] = [
        (f"p{i}", PICTURE, {"split": "train" if i < train else "dev", "complete": 1, "faces": [face]})
        for i in range(train + dev)
    ]
    write_set(directory, rows)
    return directory


def test_a_set_says_what_it_is_or_is_known_or_has_defaults(tmp_path: Path) -> None:
    mine = a_set(tmp_path / "mine", 1)
    assert describe(mine) == SetDescription()
    (mine / "set.toml").write_text('boxes = "other"\npaste = true\nweight = 0.5\nlicence = "CC0"\nmeasure = false\n')
    assert describe(mine) == SetDescription("other", False, True, 0.5, "CC0")
    assert not describe(tmp_path / "landmarks5").regress
    assert describe(tmp_path / "wider").regress


@pytest.mark.parametrize(
    ("text", "says"),
    [("box = 1", "may say boxes"), ('boxes = "tight"', "boxes"), ("weight = -1", "weight"), ("=", "TOML")],
)
def test_a_wrong_set_toml_is_named(tmp_path: Path, text: str, says: str) -> None:
    a_set(tmp_path / "mine", 1)
    (tmp_path / "mine" / "set.toml").write_text(text)
    with pytest.raises(DataError, match=rf"set\.toml: .*{says}"):
        open_data(tmp_path)


def test_without_a_dev_part_the_same_tenth_is_held_out_each_time(tmp_path: Path) -> None:
    a_set(tmp_path / "mine", 20)
    folder = open_data(tmp_path)
    train, dev = ({p.path.name for p in folder.pictures("mine", part)} for part in ("train", "dev"))
    assert (len(train), len(dev)) == (18, 2)
    assert not train & dev
    assert {p.path.name for p in open_data(tmp_path).pictures("mine", "dev")} == dev
    assert "held out" in (folder.remark() or "")


def test_a_dev_part_anywhere_leaves_the_training_parts_whole(tmp_path: Path) -> None:
    a_set(tmp_path / "mine", 20)
    a_set(tmp_path / "other", 2, dev=1)
    folder = open_data(tmp_path)
    assert len(folder.pictures("mine", "train")) == 20
    assert folder.remark() is None
    assert (len(folder.dev_part("mine")), len(folder.dev_part("other"))) == (0, 1)


def test_weights_are_of_what_is_there(tmp_path: Path) -> None:
    a_set(tmp_path / "mine", 10, dev=1)
    a_set(tmp_path / "wider", 40, dev=1)
    a_set(tmp_path / "attributes", 5)
    shipped = {"wider": 0.4, "extra": 0.1}
    settled = settled_weights(shipped, open_data(tmp_path))
    assert settled == pytest.approx({"wider": 0.4, "mine": 0.1, "attributes": 0.0})
    assert remark_on_weights(shipped, settled) == (
        "draws its pictures from wider 80%, mine 20% (data.weights.NAME=... changes that)"
    )
    assert settled_weights(shipped, open_data(tmp_path / "mine")) == {"mine": 1.0}
    asked = settled_weights({**shipped, "extra": 0.3}, open_data(tmp_path), ["data.weights.extra=0.3"])
    assert asked["extra"] == 0.3          # asked for by name: reading it then says that it is missing


def test_licences_are_the_sets(tmp_path: Path) -> None:
    (a_set(tmp_path / "mine", 2) / "set.toml").write_text('licence = "CC BY 4.0"')
    a_set(tmp_path / "other", 2)
    a_set(tmp_path / "wider", 2)
    folder = open_data(tmp_path)
    assert licence_of(folder, ["mine"], "research") == "CC BY 4.0 (data of mine)"
    assert "not stated (data of other" in licence_of(folder, ["mine", "other"], "research")
    assert licence_of(folder, ["mine", "wider"], "research") == "research"


def test_a_folder_with_nothing_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no set in it"):
        open_data(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        open_data(tmp_path / "none")


def test_training_on_ones_own_set_needs_no_option(tmp_path: Path, astronaut: NDArray[np.uint8]) -> None:
    small = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA).astype(np.uint8)
    face = {"box": [v / 4 for v in FACE_BOX]}
    write_set(
        tmp_path / "mine", [(f"p{i}", small, {"split": "train", "complete": 1, "faces": [face]}) for i in range(4)]
    )
    result = CliRunner().invoke(
        main,
        ["train", "mos_s", "options.width=0.5x", "canvases=[{size_px=128, batch=2, share=1.0}]", "data.workers=0",
         "run.steps=1", "run.dev_size_px=128", "--data", str(tmp_path / "mine"), "--out", str(tmp_path / "run"),
         "--cache", str(tmp_path / "cache")],
    )
    assert result.exit_code == 0, result.output
    assert "is held out" in result.output
    assert "draws its pictures from mine 100%" in result.output
    assert f"into {tmp_path / 'cache'}: 147 kB" in result.output
    assert "ap_all" in result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "mos_s.best.pt")
    assert list(checkpoint.made["data_sha256"]) == ["mine"]
    assert "not stated" in checkpoint.licence
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["config"]["data"]["weights"] == {"mine": 1.0}
