"""What `auto` of multilinear_pool loses on a CPU against the better choice, over random problems.

    OMP_NUM_THREADS=1 python -m c2f_ops.bench.pool_choices gram --seconds 240
    OMP_NUM_THREADS=1 python -m c2f_ops.bench.pool_choices recompute --seconds 240

Both choices of a problem are timed in turn, by processor time; the bounds in c2f_ops/_ops/choice.py were fitted so.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from c2f_ops import HBP, MLP, explain, multilinear_pool

_CHANNELS = (16, 32, 64, 100, 128, 192, 256, 384, 512, 1024)
_SIDES, _WIDTHS = (2, 4, 7, 8, 14, 20, 28), (128, 512, 1024, 2048, 4096, 8192)
_SETS = {"gram": (((0, 1),), HBP), "recompute": (((0, 1),), HBP, MLP, ((0, 1, 2),))}
_FEWEST, _MOST = 1e6, 2.5e9  # multiply-adds of the projections


def seconds_of(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def loss_of(choice: str, rng: random.Random) -> float | None:
    """log of the time of `auto` over that of the better choice of one random problem; None where it is out of range."""
    interactions = rng.choice(_SETS[choice])
    factors = 1 + max(max(t) for t in interactions)
    batch, side, width = rng.choice((1, 2, 4, 8)), rng.choice(_SIDES), rng.choice(_WIDTHS)
    equal = rng.random() < 0.6
    channels = [rng.choice(_CHANNELS)] * factors if equal else [rng.choice(_CHANNELS) for _ in range(factors)]
    if not _FEWEST <= batch * side * side * width * sum(channels) <= _MOST:
        return None
    dtype, grad = rng.choice((torch.float32, torch.bfloat16)), choice == "recompute" or rng.random() < 0.5
    features = [torch.randn(batch, c, side, side).to(dtype).requires_grad_(grad) for c in channels]
    weights = [(torch.randn(c, width) / c**0.5).to(dtype).requires_grad_(grad) for c in channels]
    plan = explain(features, weights, interactions=interactions)
    if choice == "recompute" and plan.algo == "gram":
        return None

    def timed(algo: str, recompute: bool | str) -> Callable[[], object]:
        def run() -> Tensor:
            return multilinear_pool(features, weights, interactions=interactions, algo=algo, recompute=recompute)

        return lambda: torch.autograd.grad(run().sum(), [*features, *weights]) if grad else run()

    runs = {
        "gram": {True: timed("gram", "auto"), False: timed("fused", "auto")},
        "recompute": {wish: timed("fused", wish) for wish in (True, False)},
    }[choice]
    for run in [*runs.values()] * 2:
        run()
    rounds = max(3, min(20, int(0.15 / max(seconds_of(runs[False]), 1e-5))))
    times: dict[bool, list[float]] = {wish: [] for wish in runs}
    for _ in range(rounds):
        for wish, run in runs.items():
            times[wish].append(seconds_of(run))
    middle = {wish: statistics.median(values) for wish, values in times.items()}
    taken = plan.algo == "gram" if choice == "gram" else plan.recompute
    return math.log(middle[taken] / min(middle.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choice", choices=_SETS)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, end, losses = random.Random(arguments.seed), time.monotonic() + arguments.seconds, []
    while time.monotonic() < end:
        if (loss := loss_of(arguments.choice, rng)) is not None:
            losses.append(loss)
    mean, worst = math.exp(statistics.fmean(losses)), math.exp(max(losses))
    print(f"{len(losses)} problems: auto takes {mean:.3f} times as long as the better choice, at most {worst:.2f}")


if __name__ == "__main__":
    main()
