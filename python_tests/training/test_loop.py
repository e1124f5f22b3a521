"""The loop: who learns in a step, in which order, from which gradient."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from c2f_ops.data import load_dataset
from c2f_ops.data.birds import birds_hierarchy
from c2f_ops.training import Config, Hooks, Interrupted, Trainer
from c2f_ops.training.augment import to_input
from c2f_ops.training.consistency import consistency_loss
from c2f_ops.training.loop import _Sums
from c2f_ops.training.optimizer import prepare_stage
from c2f_ops.training.run import build_model

LEVELS = ("family", "genus", "species")


def trainer_of(config: Config, labels: torch.Tensor | None = None) -> Trainer:
    torch.manual_seed(config.seed)
    data = load_dataset("birds", split="train", n=config.train_images, size=config.load_size)
    model = build_model(config, data.hierarchy)
    wanted = data.labels if labels is None else labels
    return Trainer(model, config, data.stacked(), wanted, data.hierarchy, Accelerator(cpu=True))


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}


def heads_after_each_step(trainer: Trainer, steps: int) -> list[list[torch.Tensor]]:
    """Weights and momentum of every head after each of the first steps."""
    seen: list[list[torch.Tensor]] = []

    def note() -> bool:
        state = trainer.optimizer.optimizer.state
        row = []
        for head in trainer.model.heads:
            buffer = state.get(head.weight, {}).get("momentum_buffer")
            row.append(torch.stack([head.weight.detach(), torch.zeros_like(head.weight) if buffer is None else buffer]))
        seen.append(row)
        return len(seen) >= steps

    with pytest.raises(Interrupted):
        trainer.run(Hooks(should_stop=note))
    return seen


def test_one_head_learns_in_a_step_fine_to_coarse(tiny) -> None:
    rows = heads_after_each_step(trainer_of(tiny()), 6)
    for step in range(1, 6):
        changed = [k for k in range(3) if not torch.equal(rows[step][k], rows[step - 1][k])]
        assert changed == [2 - step % 3], "the others keep weights and momentum bit by bit"


def test_resolutions_come_with_their_levels(tiny, monkeypatch) -> None:
    from c2f_ops.training import loop

    sides = []
    inner = loop.to_input
    monkeypatch.setattr(loop, "to_input", lambda x, side, *rest: (sides.append(side), inner(x, side, *rest))[1])
    heads_after_each_step(trainer_of(tiny()), 4)
    assert sides == [32, 16, 8, 32]


def test_joint_gradient_is_the_sum_over_levels(tiny) -> None:
    stage = {"batch_norm": ["frozen"], "epochs": [0.25]}
    calm = {"backbone_options": {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}}
    sums: dict[str, torch.Tensor] = {}

    def gradients(trainer: Trainer, steps: list[list[int]]) -> list[dict[str, torch.Tensor]]:
        found = []
        stage = trainer.config.stages[0]
        trainer.optimizer = prepare_stage(trainer.model, stage, trainer.trained)
        trainer.optimizer.step = lambda: found.append(  # type: ignore[method-assign]
            {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        )
        samplers = {turn.stream: trainer._sampler(stage, turn) for turn in trainer.turns}
        for numbers in steps:
            turns = [trainer.turns[i] for i in numbers]
            trainer._step(trainer.model, stage, turns, samplers, _Sums(LEVELS, torch.device("cpu")))
        return found

    weights = (0.5, 1.0, 2.0)
    for part in gradients(trainer_of(tiny(stage, **calm, level_weights=weights)), [[0], [1], [2]]):
        for name, gradient in part.items():
            sums[name] = sums[name] + gradient if name in sums else gradient
    (joint,) = gradients(trainer_of(tiny(stage, **calm, level_weights=weights, mode="joint")), [[0, 1, 2]])
    assert joint.keys() == sums.keys()
    for name, gradient in joint.items():
        torch.testing.assert_close(gradient, sums[name], rtol=1e-5, atol=1e-7)


def test_joint_takes_one_step_a_cycle(tiny) -> None:
    trainer = trainer_of(tiny(mode="joint"))
    trainer.run()
    assert trainer.position.step == trainer.cycles(trainer.config.stages[0]) == 8


def test_rows_without_a_label_do_not_count(tiny) -> None:
    config = tiny({"batch_size": [40], "epochs": [1.0], "warmup": [0]}, train_images=40, same_images=True)
    data = load_dataset("birds", split="train", n=40, size=32)
    partial = data.labels.clone()
    partial[:, 2] = -1
    trainer = trainer_of(config, partial)
    rows = heads_after_each_step(trainer, 2)
    before = state_of(trainer_of(config))
    assert torch.equal(rows[0][2][0], before["heads.2.weight"]), "no label at all: no step"
    assert not torch.equal(rows[1][1][0], before["heads.1.weight"])


def test_empty_level_leaves_everything_as_it_was(tiny) -> None:
    config = tiny()
    trainer = trainer_of(config, torch.full((40, 3), -1))
    before = state_of(trainer)
    trainer.run()
    assert all(torch.equal(value, before[key]) for key, value in state_of(trainer).items())


@pytest.mark.parametrize(
    ("trained", "still"),
    [("head", ("backbone.", "statistics.")), ("classifiers", ("backbone.", "statistics.", "pool."))],
)
def test_stage_one_leaves_the_rest_alone(tiny, trained, still) -> None:
    trainer = trainer_of(tiny({"trained": [trained]}))
    before = state_of(trainer)
    trainer.run()
    after = state_of(trainer)
    for key in before:
        assert torch.equal(before[key], after[key]) == key.startswith(still), key


def test_consistency_is_the_divergence_of_summed_probabilities() -> None:
    tree = birds_hierarchy()
    coarse, fine = torch.randn(5, tree.sizes[1]).requires_grad_(), torch.randn(5, tree.sizes[2]).requires_grad_()
    loss = consistency_loss(coarse, fine, tree.mask(2))
    for row in range(5):
        p, q = coarse[row].softmax(0), torch.zeros(tree.sizes[1])
        for child, parent in enumerate(tree.parents[2].tolist()):
            q[parent] += fine[row].softmax(0)[child].item()
        assert loss[row].item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    loss.sum().backward()
    assert coarse.grad.abs().max() > 1e-3 and fine.grad.abs().max() > 1e-3
    summed = (fine.detach().softmax(1) @ tree.mask(2).float()).log().requires_grad_()
    agreed = consistency_loss(summed, fine.detach(), tree.mask(2))
    agreed.sum().backward()
    assert agreed.abs().max() < 1e-6 and summed.grad.abs().max() < 1e-6
    sure = 200 * torch.nn.functional.one_hot(torch.zeros(5).long(), tree.sizes[2]).float()
    far = consistency_loss(coarse.detach(), sure, tree.mask(2))
    assert far.isfinite().all()


def test_consistency_moves_all_trained_heads_towards_each_other(tiny) -> None:
    tasks = (("species", 32), ("family", 8))
    moved = {}
    for weight in (0.0, 1.0):
        trainer = trainer_of(tiny(tasks=tasks, consistency=weight))
        before = [head.weight.detach().clone() for head in trainer.model.heads]
        (after,) = heads_after_each_step(trainer, 1)
        moved[weight] = [not torch.equal(new[0], old) for new, old in zip(after, before, strict=True)]
    assert moved == {0.0: [False, False, True], 1.0: [True, False, True]}, "genus has no task"

    gaps = []
    trainer = trainer_of(tiny({"epochs": [20.0], "trained": ["head"]}, consistency=20.0, padding=0, flip=False))
    for _ in range(2):
        with torch.no_grad():
            logits = trainer.model(to_input(trainer.images, 32, trainer.model.mean, trainer.model.std), resolution=2)
        gaps.append(consistency_loss(logits[1], logits[2], birds_hierarchy().mask(2)).mean().item())
        trainer.run()
    assert gaps[1] < 0.5 * gaps[0]


def test_rows_without_a_label_do_not_count_for_consistency(tiny) -> None:
    """A batch with them gives the gradient of the batch without them."""
    calm = {"backbone_options": {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}}
    stage = {"batch_norm": ["frozen"], "epochs": [1.0], "warmup": [0], "accumulate": [40], "batch_size": [40]}
    ends = []
    for grey in (0, 255):
        config = tiny(stage, **calm, consistency=1.0, tasks=(("species", 32), ("genus", 16)), flip=False, padding=0)
        trainer = trainer_of(config)
        trainer.labels[20:], trainer.images[20:] = -1, grey
        trainer.run()
        ends.append(state_of(trainer))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_frozen_batch_norm_keeps_its_statistics(tiny) -> None:
    trainer = trainer_of(tiny({"batch_norm": ["frozen"]}))
    before = state_of(trainer)
    trainer.run()
    after = state_of(trainer)
    running = [key for key in before if "running" in key]
    assert running and all(torch.equal(before[key], after[key]) for key in running)
    assert not torch.equal(before["backbone.body.layer3.2.conv2.weight"], after["backbone.body.layer3.2.conv2.weight"])


def test_accumulation_gives_the_same_step(tiny) -> None:
    calm = {"backbone_options": {"layers": [1, 1, 3, 1], "channels": [8, 8, 16, 16], "stem_width": 8}}
    results = []
    for pieces in (1, 3):
        trainer = trainer_of(tiny({"batch_norm": ["frozen"], "accumulate": [pieces], "epochs": [0.25]}, **calm))
        trainer.run()
        results.append(state_of(trainer))
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], rtol=1e-4, atol=1e-5)


def losses_of(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Loss of every task in every step of a whole training."""
    seen: list[float] = []
    add = _Sums.add

    def note(sums: _Sums, level: int, loss: torch.Tensor, *rest: torch.Tensor) -> None:
        seen.append(loss.item())
        add(sums, level, loss, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(_Sums, "add", note)
        trainer.run()
    return seen


def test_kernels_train_as_the_reference_does(tiny, monkeypatch) -> None:
    """32 steps, every loss within 1e-5; at a small rate without momentum, as differences of rounding grow."""
    calm = {"momentum": [0.0], "nesterov": [False], "warmup": [0], "lr": [1e-4]}
    losses = {}
    for backend in ("auto", "reference"):
        trainer = trainer_of(tiny({"epochs": [8.0], "batch_norm": ["frozen"], **calm}, mode="joint"))
        trainer.model.pool.backend = backend
        losses[backend] = losses_of(trainer, monkeypatch)
        assert trainer.position.step == 32
    assert losses["auto"] == pytest.approx(losses["reference"], rel=1e-5)


def test_it_learns(tiny) -> None:
    trainer = trainer_of(tiny({"epochs": [30.0]}, flip=False, padding=0))
    losses: list[dict[str, float]] = []

    class Log:
        def write(self, kind: str, step: int, values: dict) -> None:
            losses.append(values["loss"])

    trainer.run(Hooks(log=Log()))  # type: ignore[arg-type]
    assert losses[-1]["family"] < 0.8 * losses[0]["family"]
