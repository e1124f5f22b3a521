"""The code of docs/pooling.md runs, and its sizes are those of the layers."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import c2f_ops

PAGE = Path(__file__).parents[2] / "docs" / "pooling.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="docs/pooling.md is not beside the tests")


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_three_lines_and_a_loop_of_ones_own(monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    swap, loop = blocks()[:2]
    assert len(swap.splitlines()) == 3
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 199])
    scope = {"torch": torch, "timm": timm, "c2f_ops": c2f_ops, "loader": [(images, labels)] * 5}
    exec(swap, scope)
    losses = []
    cross_entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a: losses.append(cross_entropy(*a)) or losses[-1])
    exec(loop, scope)
    assert scope["model"].classifier.out_features == 200
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.5


def test_a_head_put_together_by_hand(monkeypatch):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    small = torchvision.models.vgg.make_layers([8, "M", 16, "M", 32, "M", 64, "M", 512, "M"])
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: SimpleNamespace(features=small))
    scope = {"torch": torch, "torchvision": torchvision, "c2f_ops": c2f_ops}
    exec(blocks()[2], scope)
    assert scope["model"](torch.randn(2, 3, 32, 32)).shape == (2, 200)


def test_sizes_of_the_table():
    nn = c2f_ops.nn
    rows = re.findall(r"^\| \[?`(\w+)(\([^`]*\))?`.*?\| .+? \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 13
    with torch.device("meta"):
        for name, arguments, small, large in rows:
            if name in ("RandomMaclaurinPool", "CompactBilinearPool", "KernelPool"):
                continue  # they draw on the CPU
            options = {"triangle": True} if arguments else {}
            for channels, size in ((512, small), (2048, large)):
                assert getattr(nn, name)(channels, **options).out_features == int(size)
    for name in ("RandomMaclaurinPool", "CompactBilinearPool", "KernelPool"):
        sizes = next((int(small), int(large)) for row, _, small, large in rows if row == name)
        assert tuple(getattr(nn, name)(c).out_features for c in (512, 2048)) == sizes
