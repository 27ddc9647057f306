"""Bias of relative positions in a group: a table, or an MLP of the logarithmic distances.

Letters: h heads, P and Q rows and columns of a group, n = P * Q.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from .partition import Groups

HIDDEN = 512


def table_size(size: HW) -> HW:
    """Rows and columns of the table for groups of this size."""
    return 2 * size[0] - 1, 2 * size[1] - 1


def resize_table(table: Tensor, size: HW) -> Tensor:
    """``(h, 2P - 1, 2Q - 1)`` -> the table for groups of ``size``, bilinearly, as the authors."""
    if tuple(table.shape[1:]) == table_size(size):
        return table
    return F.interpolate(table[None], size=table_size(size), mode='bilinear')[0]


class TableBias(nn.Module):
    """One number per head and relative position, key minus query.

    Args:
        num_heads: h.
        size: P and Q. Groups of another size get a resized table.

    Shape:
        - returns: ``(1, h, n, n)`` for the groups.
    """

    def __init__(self, num_heads: int, size: HW) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.reset(size)

    def reset(self, size: HW) -> None:
        """Start with a new table, for groups of ``size``; the parameter stays the same object."""
        table = self.relative_position_bias_table
        table.data = table.new_empty(table.shape[0], *table_size(size))
        nn.init.trunc_normal_(table, std=0.02)

    def forward(self, groups: Groups, _dtype: torch.dtype) -> Tensor:
        table = resize_table(self.relative_position_bias_table, groups.size)
        return table.flatten(1)[:, groups.offsets][None]


class MlpBias(nn.Module):
    """An MLP of ``sign(d) ln(1 + |d|)``, d in cells, query minus key; for groups of any size.

    Args:
        num_heads: h.
        drop: Dropout of the hidden layer, in [0, 1).

    Shape:
        - returns: ``(1, h, n, n)`` for the groups.
    """

    def __init__(self, num_heads: int, drop: float = 0.0) -> None:
        super().__init__()
        layers = OrderedDict(
            fc1=nn.Linear(2, HIDDEN),
            act=nn.ReLU(),
            drop=nn.Dropout(drop),
            fc2=nn.Linear(HIDDEN, num_heads),
        )
        self.mlp = nn.Sequential(layers)

    def forward(self, groups: Groups, dtype: torch.dtype) -> Tensor:
        device = groups.offsets.device
        sides = [
            torch.arange(side - 1, -side, -1, dtype=torch.float32, device=device)
            for side in groups.size
        ]
        distances = torch.stack(torch.meshgrid(*sides, indexing='ij'), -1).flatten(0, 1)
        # logarithms in float32, as released
        logs = distances.sign() * (1 + distances.abs()).log()
        table = self.mlp(logs.to(dtype))
        return table.T[:, groups.offsets][None]
