"""solve_relations in numpy: the steps of ``csrc/cpu/solve_relations.cpp`` and ``lowest_relations.cpp``."""

from __future__ import annotations

import numpy as np

GIVEN, LEVEL, HALF = 0, 1, 2  # which prices came first, RelationStart of c2f/relations.h
FEW_ROWS = 128
NO_ARC = 1 << 62
DONE = np.iinfo(np.int64).max


class Problem:
    """Costs ``[K_F, K_C]`` and slots as in ``c2f/relations.h``."""

    def __init__(
        self,
        cost: np.ndarray,
        level: np.ndarray,
        slope: float,
        window: int,
        unit: int,
        lower: np.ndarray,
        upper: np.ndarray,
        start: np.ndarray | None,
    ) -> None:
        self.cost, self.level, self.slope, self.window, self.unit = cost, level, slope, window, unit
        self.lower, self.upper, self.start = lower, upper, start

    def slot(self, r: np.ndarray) -> np.ndarray:
        """Cost of the ``r_j``-th row in each column j, ``NO_ARC`` past the upper bound."""
        steps = np.clip(np.rint((2.0 * r + self.level) * self.slope), -self.window, self.window).astype(np.int64)
        cost = np.where(r <= self.lower, -2 * self.window, steps) * self.unit
        return np.where(r > self.upper, NO_ARC, cost)

    def slots_below(self, price: np.ndarray) -> np.ndarray:
        """Number of slots of each column that cost less than its price."""
        low, high = np.zeros_like(self.upper), self.upper.copy()
        while (low < high).any():
            r = low + (high - low + 1) // 2
            cheap = (self.slot(r) < price) & (low < high)
            low, high = np.where(cheap, r, low), np.where(cheap | (low == high), high, r - 1)
        return low

    def half(self) -> Problem:
        """Every second row, half the slots: slot r stands for slots 2 r - 1 and 2 r."""
        lower, upper = self.lower // 2, (self.upper + 1) // 2
        level, slope = (self.level - 1) / 2, 2 * self.slope
        return Problem(self.cost[::2], level, slope, self.window, self.unit, lower, upper, self.start)


class State:
    """Rows in their cheapest columns at given prices; the last node is the market, which opens and closes slots."""

    def __init__(self, problem: Problem, prices: np.ndarray) -> None:
        rows, columns = problem.cost.shape
        self.problem = problem
        self.price = np.append(prices, 0)
        self.g = (problem.cost + prices).argmin(1)
        here = np.bincount(self.g, minlength=columns)
        self.n = np.minimum(np.maximum(here, problem.slots_below(prices)), problem.slots_below(prices + 1))
        self.excess = np.append(here - self.n, self.n.sum() - rows)
        self.left = int(self.excess.clip(min=0).sum())

    def lengths_from(self, node: int) -> np.ndarray:
        """Lengths of the arcs out of a node."""
        columns, cost = len(self.n), self.problem.cost
        if node == columns:
            return np.append(np.where(self.n > 0, -self.problem.slot(self.n), NO_ARC), NO_ARC)
        rows = np.flatnonzero(self.g == node)
        moves = (cost[rows] - cost[rows, node, None]).min(0, initial=NO_ARC)
        return np.append(moves, self.problem.slot(self.n + 1)[node])

    def find_path(self, source: int) -> tuple[list[int], np.ndarray, dict[int, np.ndarray]]:
        """Dijkstra to the first node with a free slot: nodes by distance, distances, arcs of all nodes but the last."""
        distance = np.full(len(self.price), NO_ARC)
        is_open = np.ones(len(self.price), bool)
        distance[source], node, order, arcs = 0, source, [source], {}
        while self.excess[node] >= 0:
            is_open[node] = False
            arcs[node] = self.lengths_from(node)
            distance = np.minimum(distance, arcs[node] + self.price + (distance[node] - self.price[node]))
            node = int(np.where(is_open, distance, DONE).argmin())
            if not is_open[node] or distance[node] >= NO_ARC // 2:
                raise RuntimeError("solve_relations: no relation keeps the bounds")
            order.append(node)
        return order, distance, arcs

    def move_rows(self, order: list[int], distance: np.ndarray, arcs: dict[int, np.ndarray]) -> None:
        """Move one row over each arc of the path, from its end to its start."""
        columns, cost = len(self.n), self.problem.cost
        self.excess[order[-1]] += 1
        self.excess[order[0]] -= 1
        y = order[-1]
        while y != order[0]:
            passed = distance[y] - self.price[y]
            x = next(x for x in order if distance[x] - self.price[x] + arcs[x][y] == passed)
            if x == columns:
                self.n[y] -= 1
            elif y == columns:
                self.n[x] += 1
            else:
                rows = np.flatnonzero(self.g == x)
                self.g[rows[(cost[rows, y] - cost[rows, x]).argmin()]] = y
            y = x

    def run(self) -> int:
        """Empty the columns that are too full; returns the number of paths."""
        paths = 0
        for source in range(len(self.excess)):
            while self.excess[source] > 0:
                order, distance, arcs = self.find_path(source)
                self.move_rows(order, distance, arcs)
                self.price[order] += distance[order[-1]] - distance[order]
                self.price -= self.price[-1]
                paths += 1
        return paths


def _shortest_paths(problem: Problem) -> tuple[State, int, int]:
    rows, columns = problem.cost.shape
    starts = [] if problem.start is None else [(State(problem, problem.start), GIVEN)]
    if not starts or starts[0][0].left > 0:
        starts.append((State(problem, np.zeros(columns, np.int64)), LEVEL))
    if min(state.left for state, _ in starts) > rows // 4 and rows >= FEW_ROWS:
        starts.append((State(problem, _shortest_paths(problem.half())[0].price[:-1]), HALF))
    state, taken = min(starts, key=lambda start: start[0].left)
    return state, taken, state.run()


def _make_lowest(state: State) -> None:
    """Turn an optimal relation into the lexicographically smallest one."""
    problem, g, n, price = state.problem, state.g, state.n, state.price
    columns = len(n)
    reduced = problem.cost + price[:-1]
    tight = reduced == reduced.min(1, keepdims=True)
    movable = tight.sum(1) > 1
    for row in np.flatnonzero(movable):
        movable[row] = False
        home = int(g[row])
        if tight[row].argmax() == home:
            continue
        # Nodes from which tight moves of later rows, or slots at the price, lead home; `hop` is the next node there.
        opens = problem.slot(n + 1) == price[:-1]
        closes = (n > 0) & (problem.slot(n) == price[:-1])
        hop = np.full(columns + 1, -1)
        hop[home], queue = home, [home]
        for y in queue:
            into = np.zeros(columns + 1, bool)
            if y == columns:
                into[:-1] = opens
            else:
                into[g[movable & tight[:, y]]] = True
                into[columns] = closes[y]
            found = np.flatnonzero(into & (hop < 0))
            hop[found] = y
            queue.extend(found.tolist())
        x = int(np.flatnonzero(tight[row] & (hop[:-1] >= 0))[0])
        g[row] = x
        while x != home:
            y = int(hop[x])
            if x == columns:
                n[y] -= 1
            elif y == columns:
                n[x] += 1
            else:
                g[np.flatnonzero(movable & tight[:, y] & (g == x))[0]] = y
            x = y


def solve_relations(
    cost: np.ndarray,
    level: np.ndarray,
    slope: float,
    window: int,
    unit: int,
    lower: np.ndarray,
    upper: np.ndarray,
    start: np.ndarray | None,
    stop: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """The problem of ``c2f/relations.h``.

    Args:
        cost: int64 ``[K_F, K_C]``.
        level: float64 ``[K_C]``.
        slope: Factor of the slots.
        window: Bound of a slot.
        unit: Factor of a slot after rounding.
        lower: int64 ``[K_C]``.
        upper: int64 ``[K_C]``.
        start: int64 ``[K_C]`` prices to begin with, or None.
        stop: Not read: numpy hands over to the interpreter often enough for Ctrl-C.

    Returns:
        g int32 ``[K_F]``, n int64 ``[K_C]``, price int64 ``[K_C]``, which start was taken, number of shortest paths.
    """
    state, taken, paths = _shortest_paths(Problem(cost, level, slope, window, unit, lower, upper, start))
    _make_lowest(state)
    return state.g.astype(np.int32), state.n, state.price[:-1], taken, paths
