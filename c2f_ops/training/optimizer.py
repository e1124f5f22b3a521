"""The optimiser of a stage: which parameters learn, and how fast."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from ..models import MLPH
from .config import Stage


def prepare_stage(model: MLPH, stage: Stage, levels: Collection[int]) -> torch.optim.SGD:
    """Freeze and release parameters, set the modes of the modules, and return SGD over what learns.

    Of the heads only those of ``levels`` learn. Each group of parameters has ``lr_factor``, its multiple of the
    learning rate of the stage.
    """
    model.requires_grad_(True)
    if stage.trained != "all":
        model.backbone.requires_grad_(False)
    if stage.trained == "classifiers":
        model.pool.requires_grad_(False)
    for level, head in enumerate(model.heads):
        head.requires_grad_(level in levels)
    train_mode(model, stage)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.ndim < 2), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr_factor": (1.0 if in_backbone else stage.head_lr) * (stage.bias_lr if is_vector else 1.0),
                "weight_decay": stage.weight_decay * (stage.bias_decay if is_vector else 1.0),
            }
            for (in_backbone, is_vector), parameters in groups.items()
        ],
        lr=stage.lr,
        momentum=stage.momentum,
        nesterov=stage.nesterov,
    )


def train_mode(model: MLPH, stage: Stage) -> None:
    """Put the model in training mode, but for what the stage freezes."""
    model.train()
    if stage.trained != "all":
        model.backbone.eval()
    elif stage.batch_norm == "frozen":
        for module in model.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of each group to its multiple of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
