"""Streams of frames: they deepen, hold on, let go, forget, and go on from their state."""

import json
import math

import pytest
import torch

from c2f_ops.answering import Answer, Calibration, ObjectStream, stream_report
from c2f_ops.hierarchy import Hierarchy

pytestmark = pytest.mark.filterwarnings("ignore::c2f_ops.hierarchy.HierarchyWarning")
TAU = (0.8, 0.7)


@pytest.fixture
def calibration(small) -> Calibration:
    ones = ((1.0, 1.0),)
    return Calibration(small.levels, (), ones, ((0.0, 1.0),), (0.95,), (TAU,), small.sha256, 100)


def frame(*leaves: float) -> list[torch.Tensor]:
    """Logits under which a single frame has these posteriors of the leaves."""
    return [torch.zeros(1, 2), torch.tensor([leaves], dtype=torch.float64).log()]


def test_evidence_deepens_the_answer(small, calibration) -> None:
    stream = ObjectStream(small, calibration)
    seen = [stream.update(frame(0.4, 0.25, 0.1, 0.25), None)[0].path for _ in range(4)]
    assert seen == [(), (), ("A",), ("A", "1")]
    # Posterior of leaf i after t frames: p_i^t / sum p^t.
    p = [0.4**4, 0.25**4, 0.1**4, 0.25**4]
    torch.testing.assert_close(stream.posteriors()[1][0], torch.tensor([v / sum(p) for v in p], dtype=torch.float64))


@pytest.mark.parametrize(("family", "kept"), [(0.71, True), (0.69, False)])
def test_hysteresis(small, calibration, family, kept) -> None:
    stream = ObjectStream(small, calibration, n_eff=1.0)  # each frame alone counts
    assert stream.update(frame(0.95, 0.01, 0.01, 0.03), None)[0].path == ("A", "1")
    weak = frame(family * 0.9, family * 0.05, family * 0.05, 1 - family)
    (answer,) = stream.update(weak, None)
    # 0.8 - 0.1 is the limit of the family; 0.7 - 0.1 that of the species, 0.9 * 0.71 = 0.64.
    assert answer.path == (("A", "1") if kept else ())
    fresh = ObjectStream(small, calibration, n_eff=1.0)
    assert fresh.update(weak, None)[0].path == (), "0.71 alone would not be answered"
    if kept:
        assert stream.update(frame(0.59, 0.31, 0.05, 0.05), None)[0].path == ("A",), (
            "the species goes, the family stays"
        )
        assert stream.update(frame(0.01, 0.01, 0.03, 0.95), None)[0].path == ("B", "4"), "a better answer takes over"


def test_without_thresholds_the_best_path(small) -> None:
    stream = ObjectStream(small, Calibration.none(small, [1]))
    assert stream.update(frame(0.4, 0.2, 0.1, 0.3), None)[0].path == ("A", "1")
    assert stream.update(frame(0.1, 0.1, 0.1, 0.7), None)[0].path == ("B", "4"), "nothing is held"


def test_evidence_is_capped_and_the_newest_frame_counts_in_full(small, calibration) -> None:
    stream = ObjectStream(small, calibration, n_eff=3.0)
    logs, scores, weight = [], torch.zeros(4, dtype=torch.float64), 0.0
    generator = torch.Generator().manual_seed(0)
    for w in (1.0, 0.5, 1.0, 1.0, 2.0, 3.0, 0.25):
        leaves = torch.rand(4, generator=generator, dtype=torch.float64)
        stream.update([torch.zeros(1, 2), leaves.log()[None]], None, weight=w)
        s = (leaves / leaves.sum()).log()
        if weight + w > 3.0:
            scores, weight = scores * (3.0 - w) / weight, 3.0 - w
        scores, weight = scores + w * s, weight + w
        logs.append(weight)
        torch.testing.assert_close(stream.scores[0], scores)
        assert float(stream.evidence[0]) == pytest.approx(weight) and weight <= 3.0
    assert logs[-1] == 3.0
    with pytest.raises(ValueError, match=r"weight must be in \(0, 3.0\], got 3.5"):
        stream.update(frame(0.25, 0.25, 0.25, 0.25), None, weight=3.5)


def test_sides_pick_their_row(small) -> None:
    rows = ((4.0, 4.0), (1.0, 1.0), (2.0, 2.0))
    c = Calibration(small.levels, (8, 64), rows, ((0.0, 1.0),) * 3, (0.95,), (TAU,), small.sha256)
    got = [float(_posterior(small, c, side)) for side in (8, 64, None)]
    want = [float(torch.tensor([0.7, 0.1, 0.1, 0.1]).log().div(t).softmax(0)[0]) for t in (4.0, 1.0, 2.0)]
    assert got == pytest.approx(want)


def _posterior(tree, calibration, side):
    stream = ObjectStream(tree, calibration)
    stream.update(frame(0.7, 0.1, 0.1, 0.1), side)
    return stream.posteriors()[1][0, 0]


def test_batch_equals_single_streams_and_rows_are_forgotten_alone(small, calibration) -> None:
    generator = torch.Generator().manual_seed(1)
    batch, singles = ObjectStream(small, calibration, batch=3), [ObjectStream(small, calibration) for _ in range(3)]
    for rows in ([0, 1, 2], [2, 0], [1], [0, 1, 2]):
        z = 3 * torch.rand((len(rows), 4), generator=generator)
        answers = batch.update([torch.zeros(len(rows), 2), z], None, rows=rows)
        for i, row in enumerate(rows):
            assert singles[row].update([torch.zeros(1, 2), z[i : i + 1]], None) == [answers[i]]
    kept = batch.scores[[0, 2]].clone()
    batch.reset([1])
    assert batch.evidence.tolist()[1] == 0 and batch.nodes[1].tolist() == [-1, -1] and not batch.scores[1].any()
    assert torch.equal(batch.scores[[0, 2]], kept)
    batch.reset()
    assert not batch.scores.any()


def test_state_goes_through_json(small, calibration) -> None:
    stream = ObjectStream(small, calibration, batch=2, n_eff=2.5, hysteresis=0.2)
    two = [torch.zeros(2, 2), torch.tensor([[3.0, 1, 0, 0.1], [0.3, 0.2, 0.1, 2]])]
    stream.update(two, None)
    again = ObjectStream.from_dict(json.loads(json.dumps(stream.to_dict())), small, calibration)
    for _ in range(3):
        assert stream.update(two, None) == again.update(two, None)
    assert torch.equal(stream.scores, again.scores) and torch.equal(stream.nodes, again.nodes)
    assert (again.n_eff, again.hysteresis) == (2.5, 0.2)
    other = Hierarchy.from_paths(["A/1"], ["family", "species"])
    with pytest.raises(ValueError, match="state must be of the hierarchy"):
        ObjectStream.from_dict({**stream.to_dict(), "hierarchy": "0" * 64}, small, calibration)
    with pytest.raises(ValueError, match="hierarchy must have sha256"):
        ObjectStream(other, calibration)


def test_a_frame_that_is_not_finite_is_refused_and_leaves_no_trace(small, calibration) -> None:
    stream = ObjectStream(small, calibration)
    stream.update(frame(0.4, 0.25, 0.1, 0.25), None)
    before = stream.to_dict()
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"ObjectStream\.update: logits must be finite, got nan or inf"):
            stream.update([torch.zeros(1, 2), torch.tensor([[0.0, value, 0.0, 0.0]])], None)
    assert stream.to_dict() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "state must be that of to_dict, got KeyError"),
        ({"scores": [["one"]]}, "state must be that of to_dict, got "),
        ({"nodes": [[0]]}, r"nodes must have shape \[1, 2\], got \[1, 1\]"),
    ],
)
def test_a_state_that_is_none(small, calibration, changes, message) -> None:
    state = {} if changes is None else {**ObjectStream(small, calibration).to_dict(), **changes}
    with pytest.raises(ValueError, match=f"ObjectStream: {message}"):
        ObjectStream.from_dict(state, small, calibration)


def given(*nodes: int) -> Answer:
    return Answer("", sum(n >= 0 for n in nodes) - 1, 1.0, (), nodes, None, "")


def test_report_counted_by_hand(small) -> None:
    frames = [
        [given(-1, -1), given(0, -1)],
        [given(0, -1), given(0, 1)],  # second: 1 node given before, kept
        [given(0, 0), given(1, 3)],  # first: kept; second: 2 given before, both changed
        [given(0, -1), given(1, 3)],  # first: 2 given before, 1 withdrawn; second: 2 kept
    ]
    report = stream_report(frames, [8, 16, 32, 64], torch.tensor([[0, 0], [1, 3]]), small)
    assert report["reached"]["family"] == {"share": 1.0, "frame": 1.5, "side": 12.0}
    assert report["reached"]["species"] == {"share": 1.0, "frame": 2.5, "side": 24.0}
    assert report["flip_rate"] == pytest.approx(3 / 8) and report["withdrawn_rate"] == pytest.approx(1 / 8)
    assert report["final"]["coverage"] == {"family": 1.0, "species": 0.5}
    assert report["final"]["answered_accuracy"] == {"family": 1.0, "species": 1.0}
    assert report["final"]["mean_depth"] == 1.5
    never = stream_report([[given(-1, -1)]], [8], torch.tensor([[0, 0]]), small)
    assert never["reached"]["family"] == {"share": 0.0, "frame": None, "side": None} and never["flip_rate"] is None
    assert never["final"]["answered_accuracy"] == {"family": None, "species": None}
    with pytest.raises(ValueError, match="sides must be one per frame, got 1 for 4"):
        stream_report(frames, [8], torch.tensor([[0, 0], [1, 3]]), small)
    for answers, truth in (([[]], torch.zeros(0, 2)), (frames[:1], torch.zeros(3, 2))):
        with pytest.raises(ValueError, match="answers must be one per row of truth, got"):
            stream_report(answers, [8], truth, small)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch": 0}, "batch must be positive, got 0"), ({"n_eff": 0}, "n_eff must be positive"),
     ({"hysteresis": -1}, "hysteresis must be from 0 up, got -1"), ({"target": 0.5}, "target must be one of 0.95")],
)  # fmt: skip
def test_bad_options(small, calibration, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectStream(small, calibration, **options)


@pytest.mark.parametrize("rows", [[0, 0], [2], [-1]])
def test_bad_rows(small, calibration, rows) -> None:
    with pytest.raises(ValueError, match=r"rows must be distinct and in 0\.\.1"):
        ObjectStream(small, calibration, batch=2).reset(rows)
