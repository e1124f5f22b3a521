"""A fine class with two coarse classes as two rows of the head, one below each."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..models import Falcon
from ..relations import group_cost
from ._inputs import Rows
from ._loop import Head, Loop, logits_of
from ._reports import second_parents


@torch.no_grad()
def split_classes(loop: Loop, rows: Rows, codes: Tensor, share: float) -> tuple[Loop, np.ndarray]:
    """Give each fine class with a second coarse class a copy below it.

    Which these are is counted from the teacher's predictions for all rows with labels ``codes`` ``[N, D]``: classes
    that have at least ``share`` of their labels in their second coarse class. Class and copy have the same weights and
    half the probability each, so predictions stay as they are. From here on the relations stay too: counts of two rows
    that hardly differ would name the same coarse class for both.

    Returns:
        The loop to go on with, momentum starting anew, and the original of each copy; the same loop without any.
    """
    old = loop.falcon.eval()
    costs = [torch.zeros(old.num_fine, count, dtype=torch.float64, device=rows.device) for count in old.num_coarse]
    for where, logits in logits_of(old.teacher, rows):
        for d, cost in enumerate(costs):
            group_cost(logits.softmax(1), codes[where, d], cost.shape[1], out=cost)
    relations = old.relations.cpu().numpy()
    originals, columns = [], [relations]
    for d, cost in enumerate(costs):
        for fine, parent, second, _ in second_parents(cost.cpu().numpy(), share):
            column = relations[:, [fine]].copy()
            column[d] = second if column[d] == parent else parent
            originals.append(fine)
            columns.append(column)
    if not originals:
        return loop, np.zeros(0, np.int64)
    index = torch.cat([torch.arange(old.num_fine), torch.tensor(originals)]).to(rows.device)
    new = Falcon(
        _repeat_outputs(old.student, index), len(index), old.num_coarse, replace(old.config, learn_relations=False),
        relations=np.concatenate(columns, 1), group=old.group,
    ).to(rows.device)  # fmt: skip
    new.teacher.load_state_dict(_repeat_outputs(old.teacher, index).state_dict())
    new.steps.copy_(old.steps)
    new.last_results = old.last_results
    if old.config.reg_ema:
        new.criterion.running_p.copy_(old.criterion.running_p[index] / index.bincount()[index])
    after = Loop(new, loop.plan)
    after.epoch = loop.epoch
    return after, np.array(originals)


def merge_copies(logits: Tensor, originals: np.ndarray) -> Tensor:
    """Logits ``[B, K_F]`` of fine classes from those of all rows ``[B, K_F + copies]``; probabilities are added."""
    count = logits.shape[1] - len(originals)
    merged = list(logits.unbind(1))
    for row, original in enumerate(originals.tolist(), count):
        merged[original] = torch.logaddexp(merged[original], merged[row])
    return torch.stack(merged[:count], 1) if len(originals) else logits


def _repeat_outputs(network: nn.Module, index: Tensor) -> Head:
    """A head with output ``index[k]`` of ``network`` as its k-th, probability shared among equals."""
    assert isinstance(network, Head)
    head = copy.deepcopy(network)
    last = [head.linear] if head.deep is None else [head.linear, head.deep[-1]]
    for layer in last:
        assert isinstance(layer, nn.Linear)
        layer.weight, layer.bias = nn.Parameter(layer.weight[index]), nn.Parameter(layer.bias[index])
        layer.out_features = len(index)
    head.linear.bias.sub_(index.bincount()[index].log())
    return head
