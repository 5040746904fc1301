"""WIDER FACE's protocol on cases small enough for paper, against a straightforward reading of it, and on real boxes.

On paper: scores are normalised so that the best of the set is 1 and the worst 0, and AP is the sum of (gain in
recall) x (best precision at that or a higher recall).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.data.annotations import Face, Picture, Subset, read_annotations
from edgeface.evaluation.wider import (
    SUBSETS,
    average_precision,
    evaluate_detection,
    match_faces,
    match_set,
    voc_area,
)
from edgeface.faces import Faces
from edgeface.runtime.nms import iou

Box = Sequence[float]
A: Box = (0, 0, 10, 10)
B: Box = (100, 0, 110, 10)
C: Box = (200, 0, 210, 10)
NOWHERE: Box = (500, 500, 510, 510)


def found(*detections: tuple[Box, float]) -> Faces:
    boxes = np.array([box for box, _ in detections], np.float32).reshape(-1, 4)
    return Faces(boxes, np.array([score for _, score in detections], np.float32))


def face(box: Box, subset: Subset | None = None, *, ignore: bool = False) -> Face:
    return Face(box=np.array(box, np.float32), subset=subset, ignore=ignore)


def picture(*faces: Face) -> Picture:
    return Picture(Path("x.webp"), 640, 480, "dev", complete=True, faces=faces)


def ap_of(pictures: Sequence[Picture], detections: Sequence[Faces], name: str = "all") -> float:
    return evaluate_detection(pictures, detections).ap[name].ap


def test_all_found_is_one() -> None:
    assert ap_of([picture(face(A), face(B))], [found((A, 0.9), (B, 0.3))]) == 1.0


def test_one_detection_in_the_set_is_enough_for_one() -> None:
    # The only score is best and worst at once; it counts as 1, not as 0 / 0.
    assert ap_of([picture(face(A))], [found((A, 0.25))]) == 1.0


def test_a_false_face_between_two_hits() -> None:
    # hit .9, false .8, hit .7 -> 1, .5, 0. Recall 1/2 at precision 1, then 1/2 at 1/2, then 1 at 2/3.
    # AP = 1/2 * 1 + 1/2 * 2/3 = 5/6.
    result = ap_of([picture(face(A), face(B))], [found((A, 0.9), (NOWHERE, 0.8), (B, 0.7))])
    assert result == pytest.approx(5 / 6)


def test_order_of_the_detections_does_not_matter() -> None:
    result = ap_of([picture(face(A), face(B))], [found((B, 0.7), (A, 0.9), (NOWHERE, 0.8))])
    assert result == pytest.approx(5 / 6)


def test_scores_are_normalised_over_the_set_and_not_by_picture() -> None:
    # Two pictures: hit .9 with a hit .5; false .7 alone. Over the set: 1, 0 and .5, the same order as above: 5/6.
    # Normalised by picture the false one would be a 1, and the AP 1/2 * 2/3 + 1/2 * 2/3.
    result = ap_of([picture(face(A), face(B)), picture()], [found((A, 0.9), (B, 0.5)), found((NOWHERE, 0.7))])
    assert result == pytest.approx(5 / 6)


def test_tied_scores_pass_the_threshold_together() -> None:
    # hit .9 and false .9, then hit .5: recall 1/2 at precision 1/2, then 1 at 2/3; the envelope is 2/3 throughout.
    for tied in ([(A, 0.9), (NOWHERE, 0.9)], [(NOWHERE, 0.9), (A, 0.9)]):
        assert ap_of([picture(face(A), face(B))], [found(*tied, (B, 0.5))]) == pytest.approx(2 / 3)


def test_a_thousand_thresholds_do_not_part_closer_scores() -> None:
    # .9995 and 1 both pass the first threshold .999: one hit and one false at once, precision 1/2. The false one at 0
    # only sets the scale.
    detections = [found((A, 1.0), (NOWHERE, 0.9995), (C, 0.0))]
    assert ap_of([picture(face(A))], detections) == pytest.approx(1 / 2)
    # .9985 is parted from 1: hit at precision 1.
    assert ap_of([picture(face(A))], [found((A, 1.0), (NOWHERE, 0.9985), (C, 0.0))]) == 1.0


def test_a_duplicate_is_false() -> None:
    # A twice, .9 and .8, then B at .7: as with the false face above, 5/6.
    result = ap_of([picture(face(A), face(B))], [found((A, 0.9), (A, 0.8), (B, 0.7))])
    assert result == pytest.approx(5 / 6)


def test_a_missed_face_and_a_picture_without_detections_cost_recall() -> None:
    # Recall ends at 1/2 and 1/3 at precision 1.
    assert ap_of([picture(face(A), face(B))], [found((A, 0.9))]) == pytest.approx(1 / 2)
    pictures = [picture(face(A), face(B)), picture(face(C))]
    assert ap_of(pictures, [found((A, 0.9)), found()]) == pytest.approx(1 / 3)


def test_nothing_found_at_all_is_zero() -> None:
    assert ap_of([picture(face(A))], [found()]) == 0.0
    assert ap_of([picture(face(A))], [found((NOWHERE, 0.9))]) == 0.0


def test_detections_in_a_picture_without_faces_are_false() -> None:
    # false .9, hit .8 -> 1, 0: recall 1 at precision 1/2.
    result = ap_of([picture(face(A)), picture()], [found((A, 0.8)), found((A, 0.9))])
    assert result == pytest.approx(1 / 2)


@pytest.mark.parametrize("uncounted", [face(B, ignore=True), face(B, "easy", ignore=True), face(B)])
def test_an_uncounted_face_is_neither_hit_nor_false_nor_missed(uncounted: Face) -> None:
    pictures = [picture(face(A, "easy"), uncounted)]
    for on_it in ([(B, 0.95)], [(B, 0.95), (B, 0.94)], []):
        report = evaluate_detection(pictures, [found((A, 0.9), *on_it)])
        assert {name: (row.ap, row.faces) for name, row in report.ap.items()} == dict.fromkeys(SUBSETS, (1.0, 1))


def test_a_detection_belongs_to_the_face_it_overlaps_most() -> None:
    # IoU 8/12 with the counted face, 9/11 with the ignored one: it is the ignored one's, and the counted is missed.
    pictures = [picture(face((0, 0, 10, 10)), face((3, 0, 13, 10), ignore=True))]
    report = evaluate_detection(pictures, [found(((2, 0, 12, 10), 0.9))])
    assert (report.ap["all"].ap, report.ap["all"].recall) == (0.0, 0.0)


def test_overlap_of_one_half_is_enough_and_no_pixel_is_added() -> None:
    truth = np.float32([[0, 0, 10, 20]])
    assert match_faces(np.float32([[0, 0, 10, 10]]), truth).tolist() == [0]
    assert match_faces(np.float32([[0, 0, 10, 9.9]]), truth).tolist() == [-1]  # 10.9 / 21 with a pixel added


def test_equal_overlaps_go_to_the_first_face() -> None:
    truth = np.float32([[0, 0, 10, 10], [0, 0, 10, 10]])
    assert match_faces(truth, truth).tolist() == [0, 0]


def test_subsets_hold_each_other() -> None:
    pictures = [picture(face(A, "easy"), face(B, "medium"), face(C, "hard"))]
    perfect = evaluate_detection(pictures, [found((A, 0.9), (B, 0.8), (C, 0.7))])
    assert {name: (row.ap, row.faces) for name, row in perfect.ap.items()} == {
        "easy": (1.0, 1), "medium": (1.0, 2), "hard": (1.0, 3),
    }  # fmt: skip
    without_hard = evaluate_detection(pictures, [found((A, 0.9), (B, 0.8))])
    assert [without_hard.ap[name].ap for name in SUBSETS] == [1.0, 1.0, pytest.approx(2 / 3)]


@pytest.mark.parametrize("false_faces", [1, 3])
def test_false_faces_above_all_hits(false_faces: int) -> None:
    # With n faces and k false ones first, precision at the i-th hit is i / (i + k), which rises to n / (n + k): the
    # envelope, and so the AP, is n / (n + k).
    pictures = [picture(face(A, "easy"), face(B, "medium"), face(C, "hard"))]
    false = [((500 + 20 * i, 500, 510 + 20 * i, 510), 0.99) for i in range(false_faces)]
    report = evaluate_detection(pictures, [found(*false, (A, 0.9), (B, 0.8), (C, 0.7))])
    expected = [n / (n + false_faces) for n in (1, 2, 3)]
    assert [report.ap[name].ap for name in SUBSETS] == pytest.approx(expected)


def test_a_subset_without_faces_is_not_reported() -> None:
    assert list(evaluate_detection([picture(face(A, "hard"))], [found((A, 0.9))]).ap) == ["hard"]


def test_height_bins_leave_out_what_is_no_fault_of_theirs() -> None:
    small, large = (0, 0, 9, 10), (100, 0, 180, 100)
    pictures = [picture(face(small), face(large), face((300, 0, 305, 7.9)))]
    # The false face is 20 high: it spoils 16-32, where no face is, and no other bin.
    detections = [found(((400, 0, 420, 20), 0.99), (large, 0.9), (small, 0.8))]
    by_height = evaluate_detection(pictures, detections).ap_by_height_px
    assert {name: (row.ap, row.faces) for name, row in by_height.items()} == {
        "<8": (0.0, 1), "8-16": (1.0, 1), "64-128": (1.0, 1),
    }  # fmt: skip
    # A false face 12 high above all: 8-16 has precision 1/2.
    detections = [found(((400, 0, 420, 12), 0.99), (large, 0.9), (small, 0.8))]
    by_height = evaluate_detection(pictures, detections).ap_by_height_px
    assert [row.ap for row in by_height.values()] == [0.0, pytest.approx(1 / 2), 1.0]


def test_a_hit_of_another_height_is_still_a_hit_of_its_bin() -> None:
    # 14 high on a face 16 high: found, in the bin of the face, at precision 1/2 after a false face 20 high.
    detections = [found(((400, 0, 420, 20), 0.99), ((0, 0, 10, 14), 0.9))]
    by_height = evaluate_detection([picture(face((0, 0, 10, 16)))], detections).ap_by_height_px
    assert {name: (row.ap, row.recall) for name, row in by_height.items()} == {"16-32": (0.5, 1.0)}


def test_a_height_on_the_border_is_in_the_upper_bin_and_the_last_is_open() -> None:
    pictures = [picture(face((0, 0, 8, 8)), face((50, 0, 150, 128)), face((200, 0, 600, 470)))]
    by_height = evaluate_detection(pictures, [found()]).ap_by_height_px
    assert {name: row.faces for name, row in by_height.items()} == {"8-16": 1, ">=128": 2}


def test_height_bins_take_the_hard_subset_only() -> None:
    by_height = evaluate_detection([picture(face(A, "easy"), face(B))], [found((A, 0.9), (B, 0.95))]).ap_by_height_px
    assert {name: (row.ap, row.faces) for name, row in by_height.items()} == {"8-16": (1.0, 1)}


def test_no_counted_face_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one counted face"):
        average_precision(match_set([found()], [np.empty((0, 4), np.float32)]), np.zeros(0, np.bool_))


def test_area_under_the_envelope() -> None:
    # Precision .5 at recall .2, .8 at .4, .3 at .5: 0.4 * .8 + 0.1 * .3.
    assert voc_area(np.array([0.2, 0.4, 0.5]), np.array([0.5, 0.8, 0.3])) == pytest.approx(0.35)


def slow_average_precision(
    detections: Sequence[Faces], truths: Sequence[np.ndarray], counted: Sequence[list[bool]]
) -> float:
    """The protocol as its authors' loops have it: a picture, a detection and a threshold at a time."""
    every = [float(score) for faces in detections for score in faces.scores]
    low, high = min(every, default=0.0), max(every, default=0.0)
    true_at, all_at = [0] * 1000, [0] * 1000
    for faces, truth, counts in zip(detections, truths, counted, strict=True):
        normal = [(float(score) - low) / (high - low) if high > low else 1.0 for score in faces.scores]
        order = sorted(range(len(normal)), key=lambda i: -normal[i])
        is_proposal = [1] * len(order)
        recalled = [0] * len(truth)
        recall_after = []
        for place, i in enumerate(order):
            best, best_overlap = -1, 0.0
            for j in range(len(truth)):
                overlap = float(iou(faces.boxes[i : i + 1], truth[j : j + 1])[0, 0])
                if overlap > best_overlap:
                    best, best_overlap = j, overlap
            if best_overlap >= 0.5:
                if not counts[best]:
                    is_proposal[place] = 0
                else:
                    recalled[best] = 1
            recall_after.append(sum(recalled))
        for t in range(1000):
            passing = [place for place, i in enumerate(order) if normal[i] >= 1 - (t + 1) / 1000]
            if passing:
                all_at[t] += sum(is_proposal[: passing[-1] + 1])
                true_at[t] += recall_after[passing[-1]]
    total = sum(sum(counts) for counts in counted)
    recall = [0.0] + [true / total for true in true_at] + [1.0]
    precision = [0.0] + [
        true / proposals if proposals else 0.0 for true, proposals in zip(true_at, all_at, strict=True)
    ]
    precision.append(0.0)
    for t in range(len(precision) - 2, -1, -1):
        precision[t] = max(precision[t], precision[t + 1])
    return sum((recall[t] - recall[t - 1]) * precision[t] for t in range(1, len(recall)))


# A coarse grid, so that boxes really overlap, coincide and touch one half, and scores tie.
boxes = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
scores = st.integers(0, 64).map(lambda score: score / 64) | st.floats(0, 1, width=32)
pictures_with_detections = st.lists(
    st.tuples(
        st.lists(st.tuples(boxes, st.booleans()), max_size=5),
        st.lists(st.tuples(boxes, scores), max_size=8),
    ),
    min_size=1,
    max_size=4,
).filter(lambda pictures: any(counts for truth, _ in pictures for _, counts in truth))


@settings(max_examples=150, deadline=None)
@given(pictures_with_detections)
def test_equals_the_straightforward_reading(
    pictures: list[tuple[list[tuple[Box, bool]], list[tuple[Box, float]]]],
) -> None:
    truths = [np.array([box for box, _ in truth], np.float32).reshape(-1, 4) for truth, _ in pictures]
    counted = [[counts for _, counts in truth] for truth, _ in pictures]
    detections = [found(*given_detections) for _, given_detections in pictures]
    fast = average_precision(
        match_set(detections, truths), np.array([c for counts in counted for c in counts], np.bool_)
    )
    assert fast.ap == pytest.approx(slow_average_precision(detections, truths, counted), abs=1e-12)


def test_on_real_boxes(shared_data: Path) -> None:
    pictures = read_annotations(shared_data / "wider", "dev")
    random = np.random.default_rng(0)

    def exactly(wanted: Sequence[Subset | None]) -> list[Faces]:
        chosen = [[f for f in p.faces if f.box is not None and f.subset in wanted] for p in pictures]
        return [found(*[(f.box, random.uniform(0.1, 0.9)) for f in faces if f.box is not None]) for faces in chosen]

    perfect = evaluate_detection(pictures, exactly(["easy", "medium", "hard", None]))
    assert {name: (row.ap, row.faces) for name, row in perfect.ap.items()} == {
        "easy": (1.0, 733), "medium": (1.0, 1380), "hard": (1.0, 3688),
    }  # fmt: skip
    assert all(row.ap == 1.0 for row in perfect.ap_by_height_px.values())
    assert sum(row.faces for row in perfect.ap_by_height_px.values()) == 3688
    # Without the hard faces: precision stays 1, and hard recall ends at 1380 of 3688.
    without_hard = evaluate_detection(pictures, exactly(["easy", "medium", None]))
    assert [without_hard.ap[name].ap for name in SUBSETS] == [1.0, 1.0, pytest.approx(1380 / 3688)]
