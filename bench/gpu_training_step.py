"""One training step of VGG-16 with hierarchical bilinear pooling at 448 px: what the operator is worth in a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from c2f_ops.nn import HierarchicalBilinearPool

from .cases import eager
from .gpu_rows import Row, measure_contenders, table_of_rows, write_rows

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; halved between stages
BATCH, SIDE, DIM, CLASSES = 8, 448, 8192, 200
BACKENDS = ("reference", "triton", "cuda")


class EagerPool(HierarchicalBilinearPool):
    """The same layer, written as users do today."""

    def forward(self, features: list[Tensor], mask: None = None) -> Tensor:  # type: ignore[override]
        """Maps ``[B, C, H, W]`` -> ``[B, 3 D]``."""
        weights, biases = ([t.to(features[0].dtype) for t in group] for group in (self.weights, self.biases))
        return eager(features, weights, biases, "hbp", "NCHW")


class Network(nn.Module):
    """VGG-16 without batch norm, its last three activations pooled, and a linear classifier."""

    def __init__(self, pool: Callable[..., HierarchicalBilinearPool], dim: int, **options: str) -> None:
        super().__init__()
        self.trunk, last = nn.ModuleList(), 3
        for stage, (width, count) in enumerate(STAGES):
            for k in range(count):
                shrink = [nn.MaxPool2d(2)] if stage > 0 and k == 0 else []
                self.trunk.append(nn.Sequential(*shrink, nn.Conv2d(last, width, 3, padding=1), nn.ReLU()))
                last = width
        self.pool = pool((last,) * 3, dim, **options)
        self.classifier = nn.Linear(3 * dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` -> logits ``[B, 200]``."""
        maps = []
        for layer in self.trunk:
            x = layer(x)
            maps.append(x)
        return self.classifier(self.pool(maps[-3:]))


def contenders(device: str, dim: int) -> dict[str, Network]:
    """A network for each way to pool, all with the same weights."""
    torch.manual_seed(0)
    networks = {"eager": Network(EagerPool, dim)}
    for backend in BACKENDS:
        networks[backend] = Network(HierarchicalBilinearPool, dim, backend=backend)
        networks[backend].load_state_dict(networks["eager"].state_dict())
    return {name: network.to(device, memory_format=torch.channels_last) for name, network in networks.items()}


def measure_step(seconds: float, *, device: str = "cuda", batch: int = BATCH, side: int = SIDE, dim: int = DIM) -> Row:
    """The row of the record: forward, backward and update under autocast to bfloat16, in channels-last."""
    networks = contenders(device, dim)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, side, side, generator=generator).to(device, memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (batch,), generator=generator).to(device)
    with torch.no_grad():
        truth = networks["reference"](images)

    def contender(network: Network) -> tuple[Callable[[], object], Callable[[], Tensor]]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # weights stay equal; the work is the same

        def logits() -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                return network(images)

        def train() -> None:
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(logits().float(), targets).backward()
            optimizer.step()

        return train, logits

    runs = {name: contender(network) for name, network in networks.items()}
    return {"batch": batch, "side": side, "dim": dim, **measure_contenders(runs, truth, seconds=seconds, device=device)}


def measure(path: Path, end: float) -> None:
    """Measure the step."""

    def rows() -> Iterator[Row]:
        yield measure_step(seconds=12.0)

    write_rows(path, {}, rows(), end)


def table(record: dict) -> str:
    """The record as Markdown."""
    lines = [
        "A training step of VGG-16 with HBP, bfloat16 by autocast, SGD. Contenders: how it pools. Error: relative L2 "
        "of the logits against float32.",
        "",
    ]
    return "\n".join(lines + table_of_rows(record["rows"], "{batch} x {side} px".format_map, "ms", {}))
