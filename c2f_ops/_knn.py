"""Search of exact nearest neighbours: a matrix product proposes, distances in float64 decide, an error bound proves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._splitmix import splitmix64

_SPARE = 4  # candidates beyond k, so that rounding in the matrix product rarely decides who is among the k
_REFINED = {"cpu": 1 << 18, "cuda": 1 << 25}  # elements [pairs, d] whose distances are summed at once
_TILE = {"cpu": 1 << 22, "cuda": 1 << 25}  # elements of one block of bounds [queries, columns]
_MAX_SQUARE = 8e37  # (|x| + |y|)^2 stays below the largest float32


class Space:
    """Rows with a metric: distances in float64, and lower bounds of them by one matrix product."""

    def __init__(self, x: Tensor, metric: str) -> None:
        self.x, self.metric = x, metric
        self.work = torch.float64 if x.dtype == torch.float64 else torch.float32
        # A sum of n products in any order is off by at most n u / (1 - n u) times the sum of their magnitudes; twice
        # that also covers the few roundings of norms and of the bound itself.
        self.margin = (x.shape[1] + 8) * torch.finfo(self.work).eps
        step = max(1, _REFINED[x.device.type] * 4 // max(1, x.shape[1]))
        self.square = torch.cat([part.double().square().sum(1) for part in x.split(step)])  # [N] float64
        if not bool((self.square < _MAX_SQUARE).all()):
            raise ValueError(
                "group_knn: X must be finite with rows of norm below 9e18, got NaN, infinite or larger rows"
            )

    def rows(self, index: Tensor) -> Tensor:
        """Rows ``[n, d]`` in the working type; unit or zero rows for cosine."""
        if self.metric != "cosine":
            return self.x.index_select(0, index).to(self.work)
        scale = self.square[index].rsqrt().nan_to_num(posinf=0.0)
        return self.x.index_select(0, index).double().mul_(scale[:, None]).to(self.work)

    def norms(self, index: Tensor) -> Tensor:
        """Norms ``[n]`` of those rows, float64."""
        return self.square[index].sign() if self.metric == "cosine" else self.square[index].sqrt()

    def query_side(self, queries: Tensor) -> Tensor:
        """Left factor ``[m, d + 2]`` of the bounds."""
        norm = self.norms(queries).to(self.work)[:, None]
        return torch.cat([self.rows(queries), torch.ones_like(norm), norm], dim=1)

    def column_side(self, columns: Tensor) -> Tensor:
        """Right factor ``[n, d + 2]`` of the bounds."""
        norm, rows, c = self.norms(columns)[:, None], self.rows(columns), self.margin
        if self.metric == "l2":
            sides = (rows.mul_(-2), (norm.square() * (1 - c)).to(self.work), (norm * -2 * c).to(self.work))
        else:
            sides = (rows.neg_(), torch.zeros_like(norm).to(self.work), (norm * -c).to(self.work))
        return torch.cat(sides, dim=1)

    def offset(self, queries: Tensor) -> Tensor:
        """``[m]``, what the product of the two sides lacks to be a lower bound of the distance."""
        if self.metric == "l2":
            return (self.square[queries] * (1 - self.margin)).to(self.work)
        return torch.full_like(queries, self.metric == "cosine", dtype=self.work)

    def distances(self, queries: Tensor, columns: Tensor) -> Tensor:
        """Distances ``[p, c]`` float32 from queries ``[p]`` to columns ``[p, c]``, a fixed order of sums for each."""
        out = torch.empty(columns.shape, device=columns.device)
        step = max(1, _REFINED[columns.device.type] // max(1, columns.shape[1] * self.x.shape[1]))
        for q, c, o in zip(queries.split(step), columns.split(step), out.split(step), strict=True):
            near = self.x.index_select(0, c.reshape(-1)).view(*c.shape, -1).double()
            row = self.x[q].double()[:, None]
            if self.metric == "l2":
                value = near.sub_(row).square_().sum(-1)
            else:
                value = near.mul_(row).sum(-1).neg_()
            if self.metric == "cosine":  # the square root of s * s is s: a duplicate is at 0 exactly
                norms = (self.square[q][:, None] * self.square[c]).sqrt_()
                value = value.div_(norms).nan_to_num_(nan=0.0).add_(1).clamp_(min=0)
            o.copy_(value)
        return out


def search(space: Space, propose: Any, queries: Tensor, columns: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
    """Ids and distances ``[m, k]`` of the nearest of the ascending ``columns``, for one tile of queries."""
    ids, bound = propose(space, queries, columns, k + _SPARE, width)
    near, far = _sorted(ids, space.distances(queries, ids.clamp(min=0)).masked_fill_(ids < 0, torch.inf))
    near, far = near[:, :k], far[:, :k].contiguous()
    # Whoever was not proposed is at `bound` or beyond, rounded alike.
    doubtful = ((far[:, -1] >= bound.float()) & (bound < torch.inf)).nonzero()[:, 0]
    if len(doubtful):
        near[doubtful], far[doubtful] = _search_all(space, queries[doubtful], columns, far[doubtful, -1], k, width)
    return near, far


def propose_by_tiles(space: Space, queries: Tensor, columns: Tensor, count: int, width: int) -> tuple[Tensor, Tensor]:
    """Ids ``[m, count]`` of lowest bound (-1: none), and a bound ``[m]`` below the distance to any other."""
    best = torch.full((len(queries), count), torch.inf, dtype=space.work, device=queries.device)
    ids = torch.full((len(queries), count), -1, device=queries.device)
    for part, bounds in _blocks(space, space.query_side(queries), queries, columns, width):
        value, position = bounds.topk(min(count, len(part)), dim=1, largest=False, sorted=False)
        value, names = torch.cat([value, best], dim=1), torch.cat([part[position], ids], dim=1)
        best, pick = value.topk(count, dim=1, largest=False, sorted=False)
        ids = names.gather(1, pick)
    return ids.masked_fill_(best == torch.inf, -1), best.amax(1) + space.offset(queries)


def _blocks(
    space: Space, left: Tensor, queries: Tensor, columns: Tensor, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (columns ``[n]``, bounds without offset ``[m, n]``) with inf at the query itself."""
    block = left.new_empty(len(left), min(width, len(columns)))
    for part in columns.split(width):
        bounds = block[:, : len(part)] if len(part) < block.shape[1] else block
        torch.mm(left, space.column_side(part).T, out=bounds)
        at = torch.searchsorted(part, queries).clamp_(max=len(part) - 1)
        own = (part[at] == queries).nonzero()[:, 0]
        bounds[own, at[own]] = torch.inf
        yield part, bounds


def _search_all(
    space: Space, queries: Tensor, columns: Tensor, reach: Tensor, k: int, width: int
) -> tuple[Tensor, Tensor]:
    """Nearest of the columns whose bound is within ``reach`` ``[m]``, the distance to k proposed ones."""
    columns = _without_surplus_copies(space.x, columns, k + 1)
    ids = torch.full((len(queries), k), -1, device=queries.device)
    distances = torch.full((len(queries), k), torch.inf, device=queries.device)
    height = max(1, _TILE[queries.device.type] // (4 * min(width, len(columns))))
    for rows in torch.arange(len(queries), device=queries.device).split(height):
        left, limit = space.query_side(queries[rows]), reach[rows].to(space.work) - space.offset(queries[rows])
        for part, bounds in _blocks(space, left, queries[rows], columns, width):
            row, column = (bounds <= limit[:, None]).nonzero().unbind(1)
            new = space.distances(queries[rows][row], part[column][:, None])[:, 0]
            found = torch.cat([distances[rows].view(-1), new])
            names = torch.cat([ids[rows].view(-1), part[column]])
            owner = torch.cat([torch.arange(len(rows), device=row.device).repeat_interleave(k), row])
            order = names.argsort(stable=True)
            order = order[found[order].argsort(stable=True)]
            order = order[owner[order].argsort(stable=True)]  # by owner, then distance, then id
            first = owner.bincount(minlength=len(rows)).cumsum(0).roll(1)
            first[0] = 0
            best = order[first[:, None] + torch.arange(k, device=row.device)]
            ids[rows], distances[rows] = names[best], found[best]
    return ids, distances


def _without_surplus_copies(x: Tensor, columns: Tensor, count: int) -> Tensor:
    """The columns without the copies of a row after its first ``count``: they lose every tie."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    factors = splitmix64(torch.arange(x.shape[1], device=x.device)) | 1
    parts = columns.split(max(1, _TILE[x.device.type] // max(1, x.shape[1])))
    hashes = torch.cat([(x[part].contiguous().view(bits).long() * factors).sum(1) for part in parts])
    order = hashes.argsort(stable=True)
    hashes, ranked = hashes[order], columns[order]
    equal = torch.zeros_like(ranked, dtype=torch.bool)
    equal[1:] = hashes[1:] == hashes[:-1]
    for at in equal.nonzero()[:, 0].split(len(parts[0])):
        equal[at] = (x[ranked[at]] == x[ranked[at - 1]]).all(1)
    position = torch.arange(len(ranked), device=x.device)
    start = torch.where(equal, 0, position).cummax(0).values
    return ranked[position - start < count].sort().values


def _sorted(ids: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Both ``[m, c]`` by distance, equal ones by id."""
    ids, order = ids.sort(dim=1)
    distances, again = distances.gather(1, order).sort(dim=1, stable=True)
    return ids.gather(1, again), distances


def tile(device: str, columns: int) -> tuple[int, int]:
    """Most queries and columns of one block."""
    width = min(columns, 8192)
    return min(4096, _TILE[device] // width), width


def faiss_proposer(space: Space) -> Any:
    """Same contract as :func:`propose_by_tiles`; one faiss index per set of columns."""
    try:
        import faiss
    except ImportError:
        raise ImportError('group_knn: faiss is not installed; pip install "c2f_ops[faiss]"') from None
    if space.x.device.type != "cpu":
        raise ValueError(f"group_knn: backend 'faiss' must get X on the CPU, got {space.x.device}")
    if space.work != torch.float32:
        raise ValueError("group_knn: backend 'faiss' must get X of at most 32 bits, got torch.float64")
    held: dict[str, Any] = {}

    def propose(space: Space, queries: Tensor, columns: Tensor, count: int, width: int) -> tuple[Tensor, Tensor]:
        if held.get("columns") is not columns:
            index = (faiss.IndexFlatL2 if space.metric == "l2" else faiss.IndexFlatIP)(space.x.shape[1])
            index.add(space.rows(columns).numpy())
            held.update(columns=columns, index=index, norm=space.norms(columns).max())
        score, position = map(torch.from_numpy, held["index"].search(space.rows(queries).numpy(), count + 1))
        others_first = (columns[position.clamp(min=0)] == queries[:, None]).int().argsort(dim=1, stable=True)[:, :count]
        score, position = score.gather(1, others_first).double(), position.gather(1, others_first)
        distance = score if space.metric == "l2" else float(space.metric == "cosine") - score
        norm = space.norms(queries)
        error = space.margin * ((norm + held["norm"]).square() if space.metric == "l2" else norm * held["norm"])
        bound = torch.where(position[:, -1] >= 0, distance[:, -1] - error, torch.inf)
        return torch.where(position >= 0, columns[position.clamp(min=0)], -1), bound

    return propose
