"""Where FALCON starts on features, and whether training led anywhere better."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ..models import Falcon
from ..models.falcon_init import proportional, set_classifier, sharpness_of, spread
from ..models.fine_sizes import fine_start
from ..neighbours import group_knn
from ..relations import group_cost, solve_relations
from ._inputs import Rows
from ._loop import Head, Loop, logits_of

_MEMBERS = 256  # samples per centre that k-means looks at
_NEAR = 10  # neighbours that the features of a sample are averaged with, to find clusters
_MARGIN = 0.01  # by which a start's agreement has to exceed the result's
_LEAST = 1e-6  # variance around centroids, in standardised features, that is told from none


def average_neighbours(x: Tensor, y: np.ndarray, k: int) -> np.ndarray:
    """Mean ``[N, d]`` of each sample and its k nearest samples of the same coarse class.

    A step of mean shift: what k-means then sees is the shape of the density more than the noise of its samples.
    """
    near = group_knn(x, y, k, "l2").indices.to(x.device).long()
    total, count = x.clone(), torch.ones(len(x), 1, device=x.device)
    for column in near.T:
        there = (column >= 0)[:, None]
        total += x[column.clamp(min=0)] * there
        count += there
    return (total / count).cpu().numpy()


def start_from_kmeans(
    falcon: Falcon,
    rows: Rows,
    codes: np.ndarray,
    sizes: np.ndarray | None,
    confidence: float,
    seed: int,
    *,
    keep: bool = False,
) -> float:
    """Set classifier and relations from k-means inside the coarse classes of the data set with the most labels.

    Clusters are looked for in features averaged over neighbours; the centroids are means of features as they are. With
    ``group_prior="proportional"`` and no ``sizes`` given, the sizes of the groups are those that `fine_start` finds.
    The relations of other data sets are solved from how their labels fall on these clusters. The scores' scale is the
    one that gives the samples the mean ``confidence`` inside their coarse class. With ``keep`` the relations that
    ``falcon`` has stay, and say how many clusters each coarse class gets.

    Returns:
        What to multiply the scores with for probabilities of Gaussians around the centroids, of the variance that
        samples have around them.
    """
    first = int((codes >= 0).sum(0).argmax())
    counts, num_fine = falcon.num_coarse, falcon.num_fine
    given = falcon.relations.cpu().numpy()
    samples = np.bincount(codes[codes[:, first] >= 0, first], minlength=counts[first])
    usual = proportional(num_fine, samples)
    free = sizes is None and not keep and falcon.config.group_prior == "proportional"
    if keep:
        sizes = np.bincount(given[first], minlength=counts[first])
    elif sizes is None:
        sizes = spread(num_fine, counts[first]) if falcon.config.group_prior == "equal" else usual
    rng = np.random.default_rng(seed)
    chosen = []
    for j, size in enumerate(sizes):
        members = np.flatnonzero(codes[:, first] == j)
        most = max(10_000, _MEMBERS * int(size))
        chosen.append(members if len(members) <= most else np.sort(rng.choice(members, most, replace=False)))
    pick = np.concatenate(chosen)
    features, y = rows.take(torch.from_numpy(pick)), codes[pick, first]
    x, near = features.cpu().numpy(), min(_NEAR, len(pick) // (4 * num_fine))
    smooth = average_neighbours(features, y, near) if near else x
    start = fine_start(smooth, y, samples, sizes, free=free, seed=seed)
    centroids, squares = start.centroids.copy(), 0.0
    for j in range(counts[first]):
        own, here = np.flatnonzero(start.relations == j), np.flatnonzero(y == j)
        c = start.centroids[own]
        nearest = (smooth[here] @ c.T - np.square(c).sum(1) / 2).argmax(1)
        for k in np.unique(nearest):
            members = x[here[nearest == k]]
            centroids[own[k]] = members.mean(0)
            squares += float(np.square(members - centroids[own[k]]).sum())
    sharpness = sharpness_of(x, y, centroids, start.relations, confidence)
    sharper = x.size / max(squares, _LEAST * x.size) / sharpness
    if keep:
        order = np.argsort(given[first], kind="stable")
        centroids = centroids[order.argsort()]
    for network in (falcon.student, falcon.teacher):
        assert isinstance(network, Head)
        set_classifier(network.linear, centroids, sharpness=sharpness)
    if keep:
        return sharper
    found = np.bincount(start.relations, minlength=counts[first])
    if not np.array_equal(found, usual):
        falcon.expect_sizes(first, found)
    relations = np.repeat(start.relations[None], len(counts), 0)
    others = [d for d in range(len(counts)) if d != first]
    if others:
        cost = [torch.zeros(num_fine, c, dtype=torch.float64) for c in counts]
        with torch.no_grad():
            for where, part in rows.chunks():
                p = falcon.teacher(part).softmax(1).cpu()
                for d in others:
                    group_cost(p, torch.from_numpy(codes[where, d]), counts[d], out=cost[d])
        for d in others:
            lam = falcon.config.balance(num_fine, counts[d], 1, 1)
            relations[d] = solve_relations((cost[d] / cost[d].sum()).numpy(), lam).g
    falcon.set_relations(relations)
    return sharper


class Retreat:
    """The start of a training, to go back to where neighbours share their fine class less often after it.

    Training asks neighbours to agree. Where they agree less at its end, another term has cut through clusters: L_reg,
    say, where fine classes are of very different size. What is compared is the mean over fine classes of the share of
    neighbours in a sample's own class, 0 for classes not in use, so that one class for everything does not win.
    """

    def __init__(self, loop: Loop, rows: Rows, sharper: float) -> None:
        self.state, self.sharper = copy.deepcopy(loop.falcon.state_dict()), sharper
        self.labels = _classes(loop, rows)

    def better(self, loop: Loop, rows: Rows, near: Tensor) -> bool:
        """Whether the start's classes agree clearly better among the neighbours ``near`` ``[N, k]``."""
        count = loop.falcon.num_fine
        return agreement(self.labels, near, count) > agreement(_classes(loop, rows), near, count) + _MARGIN

    @torch.no_grad()
    def go(self, loop: Loop) -> None:
        """Make the start the result, its scores those of Gaussians."""
        falcon = loop.falcon
        falcon.load_state_dict(self.state)
        falcon.last_results = None
        for network in (falcon.student, falcon.teacher):
            assert isinstance(network, Head)
            network.linear.weight.mul_(self.sharper)
            network.linear.bias.mul_(self.sharper)


def agreement(labels: Tensor, near: Tensor, count: int) -> float:
    """Mean over ``count`` classes of the share of neighbours ``[N, k]`` (-1: none) that are in a sample's own class."""
    same, all_ = torch.zeros(count, device=labels.device), torch.zeros(count, device=labels.device)
    for column in near.T.long():
        there = (column >= 0).float()
        same.index_add_(0, labels, (labels[column.clamp(min=0)] == labels) * there)
        all_.index_add_(0, labels, there)
    return float((same / all_.clamp(min=1)).mean())


def _classes(loop: Loop, rows: Rows) -> Tensor:
    """int64 ``[N]``: the most likely fine class of each row."""
    return torch.cat([logits.argmax(1) for _, logits in logits_of(loop.falcon.eval().student, rows)])
