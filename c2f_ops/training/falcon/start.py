"""Before FALCON: what the backbone learns first, its features, neighbours, and k-means inside the coarse classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import Falcon
from ...models.falcon_init import kmeans_start, proportional, set_classifier, sharpness_of, spread
from ...neighbours import group_knn
from ...relations import group_cost, solve_relations
from ..logs import Progress
from ..sampler import BatchSampler, stable_seed
from ..selfsup.loss import nt_xent
from .config import FalconRun
from .model import FineClassifier
from .views import make_view, whole


class Start(NamedTuple):
    """What training needs of the start, and the k-means that it is compared with.

    Attributes:
        neighbours: int32 ``[N, k]``, nearest samples with the same coarse labels, -1 for none.
        clusters: int64 ``[M]``, the nearest k-means centre of each test image; empty without features of them.
        relations: int32 ``[D, K_F]``, of the centres.
        coarse: int64 ``[M, D]``, what the classifiers of a coarse start say of each test image; empty without them.
    """

    neighbours: Tensor
    clusters: Tensor
    relations: Tensor
    coarse: Tensor


@torch.no_grad()
def embed(student: FineClassifier, images: Tensor, run: FalconRun, *, batch: int = 256) -> Tensor:
    """Features float32 ``[N, d]`` of whole images uint8 ``[N, 3, S, S]``, on the CPU."""
    return apply_in_eval(student, student.embed, images, run, batch)


@torch.no_grad()
def apply_in_eval(
    module: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor, run: FalconRun, batch: int
) -> Tensor:
    """Results ``[N, ...]``, float32 on the CPU, of ``function`` for whole images, with ``module`` in eval mode."""
    training, device = module.training, next(module.parameters()).device
    module.eval()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.precision)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        parts = [function(whole(part.to(device))).float().cpu() for part in images.split(batch)]
    module.train(training)
    return torch.cat(parts)


def learn_start(
    student: FineClassifier, images: Tensor, y: Tensor, run: FalconRun, console: Any = None
) -> nn.ModuleList:
    """Train the backbone before FALCON, as ``run.start`` says.

    "coarse": cross entropy with the coarse labels ``[N, D]``, a classifier per taxonomy. "selfsup": tell views of an
    image from those of other images, without labels.

    Returns:
        The classifiers of "coarse", to compare with: FALCON has no use for them. Empty for other starts.
    """
    heads = nn.ModuleList()
    if run.start == "none":
        return heads
    device, width = next(student.parameters()).device, student.head.in_features
    torch.manual_seed(stable_seed(run.seed, "start"))
    if run.start == "coarse":
        heads.extend(nn.Linear(width, int(count)) for count in (y.amax(0) + 1).clamp(min=1))
        top: nn.Module = heads
    else:
        top = nn.Sequential(nn.Linear(width, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    top = top.to(device)
    sampler = BatchSampler(len(images), run.start_batch_size, run.seed, "start")
    steps = max(1, round(run.start_epochs * sampler.batches))
    warmup = min(sampler.batches, steps)
    optimizer = torch.optim.SGD(
        [*student.backbone.parameters(), *top.parameters()],
        run.start_lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    student.train()
    progress = Progress(console, f"start ({run.start})", steps, 0, sampler.batch_size)
    total = torch.zeros((), device=device)
    for step in range(steps):
        rate = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / warmup)
        optimizer.param_groups[0]["lr"] = run.start_lr * rate
        chosen = sampler.batch(step)
        batch = images[chosen].to(device)
        views = [make_view(batch, run, stream, step, batch=len(chosen), rows=slice(None)) for stream in ("a", "b")]
        z = student.embed(torch.cat(views))
        if run.start == "selfsup":
            loss = nt_xent(*top(z).chunk(2), temperature=0.2, decoupled=True)
        else:
            wanted = y[chosen].to(device).repeat(2, 1)
            losses = [
                F.cross_entropy(head(z), wanted[:, d], ignore_index=-1, reduction="sum")
                / (wanted[:, d] >= 0).sum().clamp(min=1)
                for d, head in enumerate(heads)
            ]
            loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        progress.advance("")
        if (step + 1) % sampler.batches == 0 or step + 1 == steps:
            progress.epoch(
                f"epoch {(step + 1) / sampler.batches:g}  loss {float(total) / (step % sampler.batches + 1):.3f}"
            )
            total.zero_()
    progress.close()
    return heads


def make_start(
    falcon: Falcon,
    run: FalconRun,
    images: Tensor,
    y: Tensor,
    test_images: Tensor,
    heads: Iterable[nn.Module] = (),
) -> Start:
    """Find neighbours and k-means centres, and set classifier and relations from them where the switches say so.

    Args:
        falcon: Its backbone gives the features, unless the run names files with others.
        run: The run.
        images: uint8 ``[N, 3, S, S]``.
        y: int64 ``[N, D]`` coarse labels, -1 for none.
        test_images: uint8 ``[M, 3, S, S]``, told their nearest centre.
        heads: Classifiers of a coarse start, asked about the test images too.
    """
    student, switches = falcon.student, falcon.config
    assert isinstance(student, FineClassifier) and isinstance(falcon.teacher, FineClassifier)
    own = embed(student, images, run)
    x = own if run.features is None else read_features(run.features, len(images))
    tests = None
    if run.test_features is not None:
        tests = read_features(run.test_features, len(test_images))
    elif run.features is None:
        tests = embed(student, test_images, run)
    neighbours = group_knn(x, label_groups(y), switches.neighbours_retrieved).indices

    first = int((y >= 0).sum(0).argmax())
    groups = y[:, first].numpy()
    samples = np.bincount(groups[groups >= 0], minlength=falcon.num_coarse[first])
    equal = switches.group_prior == "equal"
    sizes = spread(falcon.num_fine, len(samples)) if equal else proportional(falcon.num_fine, samples)
    start = kmeans_start(x.numpy(), groups, sizes, seed=run.seed % 2**31)
    parents = torch.from_numpy(start.relations).long()
    distances = torch.cdist(x, torch.from_numpy(start.centroids))
    outside = (parents[None] != y[:, first, None]) & (y[:, first, None] >= 0)
    clusters = distances.masked_fill(outside, torch.inf).argmin(1)
    relations = torch.stack(
        [parents if d == first else _solve(falcon, clusters, y[:, d], d) for d in range(y.shape[1])]
    ).to(torch.int32)
    if switches.mstep_init == "kmeans":
        centres = _means(own, clusters, falcon.num_fine)
        known = y[:, first] >= 0
        means = centres.numpy()
        scale = sharpness_of(own[known].numpy(), groups[known.numpy()], means, start.relations, run.confidence)
        for network in (student, falcon.teacher):
            set_classifier(network.head, means, sharpness=scale)
        falcon.set_relations(relations)
    nearest = torch.empty(0, dtype=torch.int64)
    if tests is not None:
        nearest = torch.cdist(tests, torch.from_numpy(start.centroids)).argmin(1)
    return Start(neighbours, nearest, relations, _answers(student, list(heads), test_images, run))


def read_features(path: str | Path, count: int) -> Tensor:
    """Read ``X`` ``[N, d]`` of an ``.npz`` file as float32."""
    with np.load(path, allow_pickle=False) as file:
        if "X" not in file.files:
            raise ValueError(f"falcon: features must be an .npz file with X, got {', '.join(file.files)} in {path}")
        x = torch.from_numpy(file["X"].astype(np.float32))
    if x.ndim != 2 or len(x) != count:
        raise ValueError(f"falcon: features must have a row for each of {count} images, got {list(x.shape)} in {path}")
    return x


def label_groups(y: Tensor) -> Tensor:
    """int64 ``[N]``: the same number for samples with the same labels ``[N, D]``; -1 where there is none."""
    _, groups = y.unique(dim=0, return_inverse=True)
    return torch.where((y >= 0).any(1), groups, -1)


@torch.no_grad()
def _answers(student: FineClassifier, heads: list[nn.Module], images: Tensor, run: FalconRun) -> Tensor:
    """What each of D classifiers says of whole images: int64 ``[M, D]``; empty where there is none."""

    def say(x: Tensor) -> Tensor:
        z = student.embed(x)
        return torch.stack([head(z).argmax(1) for head in heads], dim=1)

    return apply_in_eval(student, say, images, run, 256).long() if heads else torch.empty(0, 0, dtype=torch.int64)


def _means(x: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Mean ``[count, d]`` of the rows of each cluster; of all rows where it has none."""
    sums = torch.zeros(count, x.shape[1]).index_add_(0, clusters, x)
    sizes = clusters.bincount(minlength=count)[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), x.mean(0))


def _solve(falcon: Falcon, clusters: Tensor, y: Tensor, d: int) -> Tensor:
    """Relations of taxonomy d from how its labels fall on clusters."""
    count = falcon.num_coarse[d]
    cost = group_cost(F.one_hot(clusters, falcon.num_fine).float(), y, count)
    lam = falcon.config.balance(falcon.num_fine, count, 1, 1)
    return torch.from_numpy(solve_relations((cost / cost.sum().clamp(min=1)).numpy(), lam).g).long()
