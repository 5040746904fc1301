"""``Faces``: choosing, joining, iterating, what is told of a face; and which faces of two sides are the same."""

from dataclasses import fields

import numpy as np
import pytest

from edgeface.class_names import ClassNames
from edgeface.drawing import draw_faces
from edgeface.errors import UnknownAttributeError
from edgeface.evaluation.multi_scale import flipped
from edgeface.faces import Distribution, Faces, FoundFace, face_records
from edgeface.matching import differences, match
from edgeface.stream.results import TrackedFaces
from edgeface.stream.tracking import Tracker

AGE = ClassNames(("0-9", "10-29", "30-69"), (5.0, 20.0, 50.0))
GENDER = ClassNames(("female", "male"))


def everything(n: int = 4, seed: int = 0) -> Faces:
    """``n`` faces with every field that there is."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 400, (n, 2))

    def uniform(*shape: int) -> np.ndarray:
        return rng.uniform(0, 1, (n, *shape)).astype(np.float32)

    def distribution(classes: ClassNames) -> Distribution:
        raw = uniform(len(classes.names))
        return Distribution(classes, raw / raw.sum(axis=1, keepdims=True))

    return Faces(
        np.concatenate((corners, corners + 60), axis=1).astype(np.float32),
        np.sort(uniform())[::-1].copy(),
        (corners[:, None] + 60 * uniform(5, 2)).astype(np.float32),
        90 * uniform(3),
        {"mask": uniform(), "quality": uniform()},
        {"mask": 0.4},
        (corners[:, None] + 60 * uniform(68, 2)).astype(np.float32),
        {"age": distribution(AGE), "gender": distribution(GENDER)},
    )


def test_these_tests_have_every_field_in_use() -> None:
    assert all(getattr(everything(), field.name) is not None for field in fields(Faces))
    assert set(everything().arrays()) == {
        "boxes", "scores", "landmarks", "landmarks68", "pose", "attribute.mask", "attribute.quality", "class.age",
        "class.gender",
    }


@pytest.mark.parametrize("chosen", [[2, 0], np.array([False, True, False, True]), slice(1, 3), [], [-1]])
def test_select_takes_all_that_is_known_of_a_face(chosen: object) -> None:
    faces = everything()
    rows = np.arange(4)[chosen if len(np.atleast_1d(chosen)) else []] if not isinstance(chosen, list) else chosen
    some = faces.select(chosen)  # type: ignore[arg-type]  # of several kinds
    assert len(some) == len(rows)
    for name, array in faces.arrays().items():
        assert some.arrays()[name].tolist() == [array[i].tolist() for i in rows]
    assert some.thresholds == faces.thresholds


def test_a_face_that_is_not_there_cannot_be_chosen() -> None:
    with pytest.raises(IndexError):
        everything().select([4])
    with pytest.raises(IndexError):
        _ = everything()[4]


def test_faces_of_a_subclass_stay_what_they_are() -> None:
    tracked = TrackedFaces.of(everything(), np.array([7, 8, 9, 10]))
    some = tracked.select([3, 1])
    assert isinstance(some, TrackedFaces)
    assert some.tracks.tolist() == [10, 8]
    assert tracked.landmarks68 is not None
    assert tracked.classes["age"].classes == AGE
    with pytest.raises(ValueError, match=r"Faces.tracks has shape \(1,\), not \(4,\)"):
        TrackedFaces.of(everything(), np.array([7]))


def test_no_faces() -> None:
    none = Faces.empty()
    assert (len(none), list(none), none.landmarks) == (0, [], None)
    assert none.boxes.dtype == none.scores.dtype == np.float32
    assert len(Faces.joined([])) == 0


def test_iteration_gives_one_face_after_the_other() -> None:
    faces = everything()
    assert [face.score for face in faces] == [float(score) for score in faces.scores]
    last = faces[-1]
    assert isinstance(last, FoundFace)
    assert faces.landmarks68 is not None
    assert last.landmarks68 is not None
    assert last.landmarks68.tolist() == faces.landmarks68[3].tolist()
    assert last.attributes["mask"] == float(faces.attributes["mask"][3])
    assert set(last.present) == {name for name in faces.attributes if faces.has(name)[3]}
    assert sum(last.classes["age"].values()) == pytest.approx(1, abs=1e-6)


def test_arrays_and_back() -> None:
    faces = everything()
    again = Faces.of_arrays(faces.arrays(), faces.thresholds, {"age": AGE, "gender": GENDER})
    assert {name: array.tobytes() for name, array in again.arrays().items()} == {
        name: array.tobytes() for name, array in faces.arrays().items()
    }
    assert (again.thresholds, again.classes["gender"].classes) == (faces.thresholds, GENDER)


def test_joined_faces_predict_what_all_parts_do() -> None:
    one, other = everything(2), everything(3, seed=1)
    both = Faces.joined([one, other])
    assert both.boxes.tolist() == [*one.boxes.tolist(), *other.boxes.tolist()]
    assert both.classes["age"].probabilities.shape == (5, 3)
    plain = Faces(other.boxes, other.scores, None, other.pose, {"quality": other.attributes["quality"]})
    both = Faces.joined([one, plain])
    assert set(both.arrays()) == {"boxes", "scores", "pose", "attribute.quality"}
    assert both.thresholds == {}


def test_the_expected_age_is_the_mean_of_the_values_by_probability() -> None:
    ages = Distribution(AGE, np.array([[0.5, 0.5, 0], [0.1, 0.2, 0.7]], np.float32))
    expected = ages.expectation()
    assert expected is not None
    assert expected.tolist() == pytest.approx([12.5, 39.5])
    assert ages.likeliest() == ["0-9", "30-69"]
    spread = ages.spread()
    assert spread is not None
    assert spread.tolist() == pytest.approx([7.5, np.sqrt(0.1 * 34.5**2 + 0.2 * 19.5**2 + 0.7 * 10.5**2)])
    plain = Distribution(GENDER, np.array([[0.2, 0.8]], np.float32))
    assert (plain.expectation(), plain.spread()) == (None, None)


@pytest.mark.parametrize("wrong", [(("one",), None), (("one", "one"), None), (("one", "two"), (1.0,))])
def test_classes_that_tell_nothing_apart(wrong: tuple[tuple[str, ...], tuple[float, ...] | None]) -> None:
    with pytest.raises(ValueError, match="classes"):
        ClassNames(*wrong)


def test_every_field_must_be_of_as_many_faces() -> None:
    faces = everything(2)
    with pytest.raises(ValueError, match=r"Faces.landmarks68 has shape \(1, 68, 2\), not \(2, 68, 2\)"):
        Faces(faces.boxes, faces.scores, landmarks68=np.zeros((1, 68, 2), np.float32))
    with pytest.raises(ValueError, match=r"Faces.classes\['age'\] has shape \(2, 2\), not \(2, 3\)"):
        Faces(faces.boxes, faces.scores, classes={"age": Distribution(AGE, np.zeros((2, 2), np.float32))})
    with pytest.raises(UnknownAttributeError):
        faces.has("hat")


def test_a_record_has_classes_and_68_points_where_they_are_predicted() -> None:
    record = face_records(everything(1))[0]
    assert len(record["landmarks68"]) == 68
    assert set(record["classes"]) == {"gender"}
    assert 5 <= record["expectations"]["age"] <= 50
    assert 0 < record["spreads"]["age"] < 45
    plain = everything(1)
    assert set(face_records(Faces(plain.boxes, plain.scores))[0]) == {
        "box", "score", "landmarks", "pose", "attributes", "present",
    }


def test_words_are_what_is_told_of_a_face() -> None:
    box, score = np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32)
    given = {"mask": 0.9, "sunglasses": 0.1, "quality": 0.25}
    faces = Faces(
        box, score, attributes={name: np.array([value], np.float32) for name, value in given.items()},
        classes={
            "age": Distribution(AGE, np.array([[0, 1, 0]], np.float32)),
            "gender": Distribution(GENDER, np.array([[0.9, 0.1]], np.float32)),
        },
    )
    assert faces[0].words() == ["mask", "age 20", "female", "q.25"]


def test_68_points_are_drawn() -> None:
    faces = everything(1)
    image = np.full((520, 520, 3), 100, np.uint8)
    bare = Faces(faces.boxes, faces.scores)
    with_points = Faces(faces.boxes, faces.scores, landmarks68=faces.landmarks68)
    changed = (draw_faces(image, with_points) != draw_faces(image, bare)).any(axis=2)
    assert faces.landmarks68 is not None
    for x, y in faces.landmarks68[0].round().astype(int):
        assert changed[y - 2 : y + 3, x - 2 : x + 3].any()


def test_a_track_carries_everything_along() -> None:
    faces = everything(2)
    faces.scores[...] = 0.95
    faces.boxes[1] += 300
    tracker = Tracker()
    tracker.update(faces, 0.0)
    tracked = tracker.update(faces, 0.1).faces
    assert set(tracked.arrays()) == set(faces.arrays())
    assert tracked.thresholds == faces.thresholds
    moved = faces.select([0, 1])
    moved.boxes[...] += 6
    later = tracker.update(moved, 0.2)
    filled = tracker.predict(0.25).faces
    assert later.faces.landmarks68 is not None
    assert filled.landmarks68 is not None
    assert not later.seen.all() or (filled.landmarks68 - later.faces.landmarks68).mean() > 0


def test_the_68_points_of_a_mirrored_face_are_in_a_face_s_order() -> None:
    faces = everything(2)
    there = flipped(faces, 640)
    back = flipped(there, 640)
    assert there.landmarks68 is not None
    assert back.landmarks68 is not None
    assert faces.landmarks68 is not None
    assert np.abs(back.landmarks68 - faces.landmarks68).max() < 1e-3
    # The jaw's ends, the brows' inner ends, the eyes' outer corners and upper lids, the mouth's corners and lower lip.
    for one, other in ((0, 16), (21, 22), (36, 45), (37, 44), (41, 46), (48, 54), (60, 64), (59, 55), (67, 65)):
        assert there.landmarks68[0, one].tolist() == [
            640 - faces.landmarks68[0, other, 0], faces.landmarks68[0, other, 1],
        ]
    assert set(there.arrays()) == set(faces.arrays())


def test_pairs_are_one_to_one_the_best_overlap_first() -> None:
    one = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32)
    other = np.array([[0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60]], np.float32)
    assert [(pair.one, pair.other) for pair in match(one, other, 0.5)] == [(1, 0), (0, 1)]
    assert [(pair.one, pair.other, pair.iou) for pair in match(one, other, 0.95)] == [(1, 0, 1.0)]
    assert match(one, other[2:], 0.1) == match(one[:0], other, 0.1) == []


def test_differences_are_of_everything_that_both_predict() -> None:
    one, other = everything(3), everything(3)
    assert other.landmarks68 is not None
    other.landmarks68[...] += 2
    other.classes["age"].probabilities[:, 0] += 0.25
    apart = differences(one, other, match(one.boxes, other.boxes, 0.9))
    assert set(apart) == set(one.arrays())
    assert {name for name, values in apart.items() if values.any()} == {"landmarks68", "class.age"}
    assert np.abs(apart["landmarks68"]).max() == pytest.approx(2, abs=1e-4)
    less = differences(one, Faces(other.boxes, other.scores), match(one.boxes, other.boxes, 0.9))
    assert set(less) == {"boxes", "scores"}
