"""ClassAttentiveEncoder: prototypes, label-free scores, export, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from c2f_ops.losses import ClassAttentiveLoss
from c2f_ops.metrics import class_attentive_prototypes, class_attentive_scores
from c2f_ops.models import ClassAttentiveEncoder
from c2f_ops.models.contrastive import PolarRadii, perceptron
from c2f_ops.nn import ClassAttention


def make(attention="table", prototype="mean", classes=5, seed=0):
    torch.manual_seed(seed)
    encoder = ClassAttentiveEncoder(
        perceptron(6, [16], 12, batch_norm=True), classes, 8, in_features=12, attention=attention, prototype=prototype
    )
    if attention == "table":  # weights far from equal
        nn.init.normal_(encoder.attention.logits, std=2.0)
    return encoder


def samples(n=70, classes=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.arange(n) % classes


def batches(x, y, size=16):
    return zip(x.split(size), y.split(size), strict=True)


@pytest.mark.parametrize("prototype", ["mean", "unit"])
@pytest.mark.parametrize("attention", ["table", "embedding", "identity"])
def test_prototypes_and_scores_are_those_of_the_metrics(attention, prototype):
    encoder, (x, y) = make(attention, prototype), samples()
    encoder.fit_prototypes(batches(x, y))
    encoder.eval()
    with torch.no_grad():
        z, w = encoder(x).double(), encoder.attention()
        expected = class_attentive_prototypes(z, y, w, num_classes=5, kind=prototype)
        torch.testing.assert_close(encoder.prototypes.double(), expected, rtol=1e-5, atol=1e-6)
        scores = class_attentive_scores(z, w, encoder.prototypes)
        torch.testing.assert_close(encoder.scores(x).double(), scores, rtol=1e-5, atol=1e-5)
        assert torch.equal(encoder.predict(x), encoder.scores(x).argmax(1))


def test_prototypes_do_not_depend_on_the_order_of_labels_given_to_inference():
    encoder, (x, y) = make(), samples()
    encoder.fit_prototypes(batches(x, y))
    encoder.eval()
    order = torch.randperm(len(x))
    assert torch.allclose(encoder.scores(x)[order], encoder.scores(x[order]), atol=1e-6)


def test_fit_prototypes_uses_running_statistics_and_leaves_the_mode():
    encoder, (x, y) = make(), samples()
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
    encoder.fit_prototypes(batches(x, y))
    assert encoder.training and before
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in before.items())
    small = encoder.prototypes.clone()
    encoder.fit_prototypes(batches(x, y, size=7))
    torch.testing.assert_close(encoder.prototypes, small)


def test_a_class_without_samples_is_never_predicted():
    encoder, (x, y) = make(), samples()
    assert bool(encoder.prototypes.isnan().all())
    encoder.fit_prototypes(batches(x[y != 2], y[y != 2]))
    encoder.eval()
    scores = encoder.scores(x)
    assert bool((scores[:, 2] == -torch.inf).all()) and bool(scores[:, [0, 1, 3, 4]].isfinite().all())
    assert 2 not in encoder.predict(x)


def test_a_zero_embedding_has_finite_scores():
    encoder = ClassAttentiveEncoder(nn.Identity(), 3, 4)
    encoder.fit_prototypes([(torch.randn(9, 4), torch.arange(9) % 3)])
    assert bool(encoder.scores(torch.zeros(2, 4)).isfinite().all())


def test_export_gives_the_same_scores():
    encoder, (x, y) = make(), samples()
    encoder.fit_prototypes(batches(x, y))

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder.eval()

        def forward(self, x):
            return self.encoder.scores(x)

    exported = torch.export.export(Scores(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(exported.module()(x[:11]), encoder.scores(x[:11]))


def test_checkpoint_round_trip(tmp_path):
    from safetensors.torch import load_file, save_file

    encoder, (x, y) = make(), samples()
    encoder.fit_prototypes(batches(x, y))
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    other = make(seed=5)
    other.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    assert torch.equal(encoder.eval().scores(x), other.eval().scores(x))


def test_training_with_the_loss_moves_network_and_weights_and_keeps_the_bounds():
    encoder, (x, y) = make(), samples(200)
    x = x + 2 * nn.functional.one_hot(y, 6)
    loss = ClassAttentiveLoss(5, 8, attention=encoder.attention)
    before = encoder.attention.weights().clone()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-2)  # the attention is among them
    for _ in range(80):
        optimizer.zero_grad()
        value = loss(encoder(x), y)
        value.backward()
        optimizer.step()
    encoder.fit_prototypes(batches(x, y, 50))
    after = encoder.attention.weights()
    assert (encoder.eval().predict(x) == y).float().mean() > 0.9
    assert not torch.equal(before, after)
    assert float(after.min()) >= 0.05 and float(after.max()) <= 2


def test_an_attention_of_ones_own_is_used():
    attention = ClassAttention(3, 4, kind="embedding", parents=[0, 0, 1])
    encoder = ClassAttentiveEncoder(nn.Identity(), 3, 4, attention=attention)
    assert encoder.attention is attention


def test_prototype_must_be_known():
    with pytest.raises(ValueError, match="prototype must be one of"):
        ClassAttentiveEncoder(nn.Identity(), 3, 4, prototype="median")


def test_polar_radii_are_blind_to_rotation():
    x = torch.randn(5, 8)
    turn = torch.tensor([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]], dtype=torch.float32)
    turned = (x.unflatten(1, (4, 2)) @ turn.T).flatten(1)
    assert PolarRadii()(x).shape == x.shape
    torch.testing.assert_close(PolarRadii()(turned), PolarRadii()(x))
    assert not torch.allclose(turned, x)
