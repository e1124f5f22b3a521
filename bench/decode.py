"""How fast images are decoded and resized, by the number of threads.

    python -m c2f_ops.bench.decode --data cub100 --root DATA

A line per side and number of threads: images per second (median of rounds taken in turns, 20 and 80 %), and processor
seconds per second, that is, how many cores were kept busy. On a machine that does other work the second says more.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

from c2f_ops.data import LabeledImages, load_dataset

from .records import conditions, said
from .timing import interleave


def measure(dataset: LabeledImages, sides: list[int], threads: list[int], seconds: float) -> list[str]:
    """Return the lines of the table."""
    spent: dict[str, list[float]] = {}

    def decode(name: str, side: int, count: int) -> Callable[[], None]:
        spent[name] = []

        def run() -> None:
            wall, processor = time.perf_counter(), time.process_time()
            dataset.stacked(side, threads=count)
            spent[name].append((time.process_time() - processor) / (time.perf_counter() - wall))

        return run

    contenders = {f"{side} px, {count} threads": decode(f"{side} px, {count} threads", side, count)
                  for side in sides for count in threads}  # fmt: skip
    lines = []
    for name, timing in interleave(contenders, seconds=seconds).items():
        median, low, high = (len(dataset) / taken for taken in (timing.median, timing.high, timing.low))
        busy = sorted(spent[name])[len(spent[name]) // 2]
        lines.append(f"{name:20s} {median:7.0f} images/s ({low:.0f}-{high:.0f}), {busy:.2f} cores busy")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cub100", help="name of a data set")
    parser.add_argument("--root", help="its folder")
    parser.add_argument("--images", type=int, default=500, help="how many of its test images")
    parser.add_argument("--sides", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the hierarchy
        dataset = load_dataset(options.data, root=options.root, split="test", n=options.images)
    print(f"{options.data}, {len(dataset)} images. {said(conditions('cpu'))}")
    print("\n".join(measure(dataset, options.sides, options.threads, options.seconds)))


if __name__ == "__main__":
    main()
