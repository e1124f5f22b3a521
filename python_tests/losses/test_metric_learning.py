"""`ClassAttentiveLoss` inside pytorch-metric-learning: its losses, miners and wrappers."""

from __future__ import annotations

import pytest
import torch

from c2f_ops.losses import ClassAttentiveLoss

pml = pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")

from pytorch_metric_learning import losses, miners  # noqa: E402


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 16, generator=generator).requires_grad_(), torch.arange(40) % 5


@pytest.fixture
def pair():
    """Ours with equal weights, and theirs."""
    return ClassAttentiveLoss(5, 16, attention="identity"), losses.SupConLoss(temperature=0.1)


def agree(batch, pair, *args, **options):
    (z, y), values = batch, []
    for loss in pair:
        value = loss(z, y, *args, **options)
        values.append((value.detach(), *torch.autograd.grad(value, z)))
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    return values[0][0]


def test_equal_weights_are_its_supcon(batch, pair):
    assert agree(batch, pair) > 1


@pytest.mark.parametrize(
    "miner",
    [
        miners.BatchHardMiner(),
        miners.MultiSimilarityMiner(epsilon=0.1),
        miners.TripletMarginMiner(margin=0.2, type_of_triplets="all"),
        miners.PairMarginMiner(pos_margin=1.3, neg_margin=1.3),
    ],
    ids=lambda m: type(m).__name__,
)
def test_tuples_of_its_miners(batch, pair, miner):
    chosen = miner(*(t.detach() for t in batch))
    assert all(len(part) for part in chosen)
    assert agree(batch, pair, chosen) != agree(batch, pair)


def test_reference_embeddings(batch, pair):
    ref = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    agree(batch, pair, ref_emb=ref, ref_labels=torch.arange(30) % 5)


def test_as_one_of_multiple_losses(batch):
    ours, other = ClassAttentiveLoss(5, 16), losses.ContrastiveLoss()
    both = losses.MultipleLosses([ours, other], weights=[1.0, 0.5])
    torch.testing.assert_close(both(*batch), ours(*batch) + 0.5 * other(*batch))
