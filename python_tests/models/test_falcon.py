"""FALCON's core: every switch, the teacher, the window of the relations, and small planted problems."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from c2f_ops.models import Falcon, FalconConfig, ema_update

pytest.importorskip("scipy")

BATCH, WIDTH, FINE, COARSE = 24, 6, 6, 3


def make(config: FalconConfig | None = None, num_coarse=COARSE, student: nn.Module | None = None) -> Falcon:
    return Falcon(student or nn.Linear(WIDTH, FINE), FINE, num_coarse, config or FalconConfig(mstep_init="random"))


def step(falcon: Falcon, epoch: int = 1, epochs: int = 10, seed: int = 0, y: torch.Tensor | None = None):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, WIDTH, generator=generator)
    if y is None:
        y = torch.randint(0, COARSE, (BATCH,), generator=generator)
    z, s = falcon.student(x), falcon.teacher_logits(x)
    loss, _ = falcon.loss(z, s, None, y, epoch, epochs)
    loss.backward()
    with torch.no_grad():
        for p in falcon.student.parameters():
            p.sub_(0.1 * p.grad)
            p.grad = None
    return falcon.after_step(z.detach(), s, y, epoch, epochs)


def test_tau_of_each_preset() -> None:
    assert all(FalconConfig.paper().tau(e, 100) == 1.0 for e in (1, 30, 31, 100))
    reference = FalconConfig.reference()
    for e in (1, 2, 16, 30):
        assert reference.tau(e, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi * (e - 1) / 30)))
    assert reference.tau(1, 100) == 1.0 and reference.tau(30, 100) > 0 and reference.tau(31, 100) == 0.0
    ours = FalconConfig.recommended()
    assert ours.tau(6, 20) > 0 and ours.tau(7, 20) == 0.0, "soft for 0.3 of the epochs"


def test_lambda_m_is_zero_after_the_soft_epochs_in_reference_only() -> None:
    for preset, after in (("paper", 0.1), ("reference", 0.0), ("recommended", 0.25 * 4 / 20)):
        config = FalconConfig.preset(preset)
        before = 0.1 if preset != "recommended" else after
        assert config.balance(20, 4, 30, 100) == pytest.approx(before)
        assert config.balance(20, 4, 31, 100) == pytest.approx(after)


def test_named_switches_of_the_presets() -> None:
    paper, reference, ours = FalconConfig.paper(), FalconConfig.reference(), FalconConfig.recommended()
    assert (paper.neighbours_retrieved, paper.neighbours_per_step) == (20, 20)
    assert (reference.neighbours_retrieved, reference.neighbours_per_step) == (20, 5)
    assert not paper.ema_warmup and reference.ema_warmup and ours.ema_warmup
    assert (paper.mstep_source, reference.mstep_source) == ("student", "teacher")
    assert not reference.mstep_carry_over and ours.mstep_carry_over
    assert (paper.ema_buffers, reference.ema_buffers, ours.ema_buffers) == ("copy", "own", "copy")


@pytest.mark.parametrize("warmup", [False, True])
def test_teacher_is_the_weighted_sum_of_students(warmup) -> None:
    falcon = make(FalconConfig(ema_decay=0.9, ema_warmup=warmup, mstep_init="random"))
    expected = falcon.teacher.weight.double().clone()
    for t in range(12):
        step(falcon, seed=t)
        decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * falcon.student.weight.detach().double()
    torch.testing.assert_close(falcon.teacher.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert not falcon.teacher.weight.requires_grad and falcon.teacher.weight.grad is None


def test_buffers_of_the_teacher() -> None:
    student, teacher = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    for policy, expected in (("copy", 4.0), ("ema", 1.0), ("own", 0.0)):
        student.running_mean.fill_(4.0)
        student.num_batches_tracked.fill_(7)
        teacher.running_mean.zero_()
        teacher.num_batches_tracked.zero_()
        ema_update(teacher, student, 0.75, buffers=policy)
        assert teacher.running_mean.tolist() == [expected, expected]
        assert int(teacher.num_batches_tracked) == (0 if policy == "own" else 7)


def test_teacher_trains_its_statistics_under_own_only() -> None:
    for policy, moves in (("own", True), ("copy", False)):
        student = nn.Sequential(nn.Linear(WIDTH, FINE), nn.BatchNorm1d(FINE))
        falcon = make(FalconConfig(ema_buffers=policy, mstep_init="random"), student=student).train()
        before = falcon.teacher[1].running_mean.clone()
        falcon.teacher_logits(torch.randn(BATCH, WIDTH) + 3)
        assert torch.equal(before, falcon.teacher[1].running_mean) != moves


@pytest.mark.parametrize("carry_over", [True, False])
def test_relations_are_solved_in_epochs_shorter_than_p_only_with_carry_over(carry_over) -> None:
    falcon = make(FalconConfig(mstep_every=5, mstep_carry_over=carry_over, mstep_init="random"))
    solved = 0
    for epoch in range(1, 5):
        falcon.start_epoch()
        for i in range(3):
            solved += step(falcon, epoch, seed=3 * epoch + i) is not None
    assert solved == (2 if carry_over else 0)


def test_counts_decay_or_start_anew() -> None:
    for decay in (0.0, 0.5):
        falcon = make(FalconConfig(mstep_every=2, mstep_decay=decay, mstep_init="random"))
        step(falcon, seed=0)
        step(falcon, seed=1)
        assert float(falcon.cost_0.sum()) == pytest.approx(2 * BATCH * decay)


def test_relations_stay_where_they_are_not_learned() -> None:
    falcon = make(FalconConfig(mstep_every=1, learn_relations=False, mstep_init="random"))
    falcon.set_relations([2, 2, 1, 1, 0, 0])
    assert step(falcon) is None and falcon.relations.tolist() == [[2, 2, 1, 1, 0, 0]]


def test_source_of_the_counts() -> None:
    y = torch.zeros(BATCH, dtype=torch.int64)
    z, s = torch.zeros(BATCH, FINE), torch.full((BATCH, FINE), -30.0)
    z[:, 1], s[:, 4] = 30.0, 30.0
    for source, fine in (("student", 1), ("teacher", 4)):
        falcon = make(FalconConfig(mstep_source=source, mstep_init="random"))
        falcon.after_step(z, s, y, 1, 10)
        assert int(falcon.cost_0.sum(1).argmax()) == fine


def test_reg_ddp_divides_the_weight_by_the_processes(monkeypatch) -> None:
    monkeypatch.setattr(Falcon, "_world", lambda self: 4)
    monkeypatch.setattr(Falcon, "_compare", lambda self: None)
    for mode, weight in (("global", 2.0), ("reference", 0.5)):
        falcon = make(FalconConfig(reg_ddp=mode, mstep_init="random"))
        assert falcon.criterion.lambdas[-1] == weight


def test_smoothing_and_running_mean_reach_the_loss() -> None:
    falcon = make(FalconConfig(label_smoothing_coarse=0.25, reg_ema=0.5, mstep_init="random"))
    assert (falcon.criterion.coarse_smoothing, falcon.criterion.reg_ema) == (0.25, 0.5)
    step(falcon, seed=0)
    other = make(FalconConfig(label_smoothing_coarse=0.25, reg_ema=0.5, mstep_init="random"))
    other.load_state_dict(falcon.state_dict())
    step(falcon, seed=1)
    step(other, seed=1)
    assert torch.equal(falcon.criterion.running_p, other.criterion.running_p)
    assert torch.equal(falcon.student.weight, other.student.weight)
    assert "criterion.running_p" not in make().state_dict()


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ({"label_smoothing_coarse": 1.0}, r"label_smoothing_coarse must be in \[0, 1\), got 1.0"),
        ({"reg_ema": -0.1}, r"reg_ema must be in \[0, 1\), got -0.1"),
        (
            {"cross_dataset_neighbours": "all"},
            r"cross_dataset_neighbours must be one of \('within', 'meet'\), got 'all'",
        ),
    ],
)
def test_switches_out_of_range_are_named(switch, message) -> None:
    with pytest.raises(ValueError, match="^FalconConfig: " + message):
        FalconConfig(**switch)


def test_rows_without_a_label_and_a_class_missing_from_the_batch() -> None:
    falcon = make(FalconConfig(mstep_every=1, mstep_init="random"))
    y = torch.zeros(BATCH, dtype=torch.int64)
    y[::2] = -1
    (result,) = step(falcon, y=y)
    assert result.n.min() >= 1, "every coarse class keeps a fine class"
    (result,) = step(falcon, y=torch.full((BATCH,), -1))
    assert all(p.isfinite().all() for p in falcon.student.parameters()) and result.n.sum() == FINE


def test_missing_labels_are_completed_from_the_classes_under_those_there_are() -> None:
    falcon = make(num_coarse=(2, 3))
    falcon.set_relations([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])
    logits = torch.tensor([[0.0, 1, 2, 9, 1, 1]]).expand(4, -1)
    y = torch.tensor([[0, -1], [-1, 1], [-1, -1], [1, 2]])
    assert falcon.complete(logits, y).tolist() == [[0, 2], [0, 1], [-1, -1], [1, 2]]
    even = torch.zeros(1, FINE)
    assert falcon.complete(even, torch.tensor([[-1, 2]])).tolist() == [[0, 2]], "ties go to the lowest class"


def test_fine_classes_under_labels_that_share_none_are_all() -> None:
    falcon = make(num_coarse=(2, 3))
    falcon.set_relations([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]])
    under = falcon.fine_under(torch.tensor([[0, 1], [0, 2], [-1, 1], [-1, -1]]))
    assert [row.nonzero().flatten().tolist() for row in under] == [[2], list(range(6)), [2, 3], list(range(6))]


def gaussians(relations: torch.Tensor, spread: float = 0.7, count: int = 900):
    """Samples of FINE Gaussians, their classes, and their labels under each relation."""
    generator = torch.Generator().manual_seed(3)
    centres = 2.5 * torch.randn(relations.shape[1], 12, generator=generator)
    fine = torch.randint(0, relations.shape[1], (count,), generator=generator)
    x = centres[fine] + spread * torch.randn(count, 12, generator=generator)
    return (x - x.mean(0)) / x.std(0), fine, relations[:, fine].t().contiguous()


def fit(x, y, num_fine, num_coarse, epochs=20) -> Falcon:
    torch.manual_seed(0)
    falcon = Falcon(nn.Linear(x.shape[1], num_fine), num_fine, num_coarse, FalconConfig(mstep_init="random"))
    similar = nn.functional.normalize(x) @ nn.functional.normalize(x).t()
    other = (y[:, None] != y[None]).any(2)
    near = similar.masked_fill(other, -2).fill_diagonal_(-2).topk(5).indices
    optimizer = torch.optim.SGD(falcon.student.parameters(), 0.1, momentum=0.9)
    for epoch in range(1, epochs + 1):
        falcon.start_epoch()
        for rows in torch.randperm(len(x)).split(150):
            z, s = falcon.student(x[rows]), falcon.teacher_logits(x[rows])
            t = falcon.teacher_logits(x[near[rows].flatten()]).view(len(rows), 5, num_fine)
            loss, _ = falcon.loss(z, s, t, y[rows], epoch, epochs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falcon.after_step(z.detach(), s, y[rows], epoch, epochs)
    return falcon


def test_two_taxonomies_whose_meet_isolates_the_classes_identify_them() -> None:
    truth = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])
    x, fine, y = gaussians(truth)
    falcon = fit(x, y, 6, (2, 3))
    predicted = falcon.student(x).argmax(1)
    table = torch.zeros(6, 6).index_put_((predicted, fine), torch.ones(len(x)), accumulate=True)
    assert float(table.amax(0).sum()) / len(x) > 0.95
    match = table.argmax(1)
    assert torch.equal(falcon.relations.long(), truth[:, match]), "both relations are recovered"


def test_labels_of_either_taxonomy() -> None:
    truth = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])
    x, _, y = gaussians(truth)
    y[::2, 1], y[1::2, 0] = -1, -1
    falcon = fit(x, y, 6, (2, 3), epochs=4)
    assert falcon.student.weight.isfinite().all()
    for d, count in enumerate((2, 3)):
        assert falcon.relations[d].unique().tolist() == list(range(count))


def test_expected_sizes_go_before_shares_of_samples() -> None:
    """Where fine classes say nothing and coarse classes have equal shares, groups get the sizes that the prior says."""
    for prior, sizes in (("proportional", [1, 4, 1]), ("equal", [2, 2, 2])):
        falcon = make(FalconConfig(mstep_init="random", group_prior=prior, lambda_m=10.0))
        falcon.expect_sizes(0, [1, 4, 1])
        falcon.count(torch.zeros(30, FINE), torch.arange(30) % COARSE)
        falcon.solve(1, 10)
        assert falcon.relations[0].bincount(minlength=COARSE).tolist() == sizes
