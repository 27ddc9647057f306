"""Partition a map into groups of tokens that attend to each other (MaxViT, Sec. 3.2).

A *block* is a window of neighbours. A *grid* is spread over the whole map: its tokens are as far
apart as the number of groups, so that every group sees the whole image.

Letters: B batch, H and W cells, C channels, K groups, n tokens of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import HW

KINDS = ('block', 'grid')


@dataclass(frozen=True)
class Groups:
    """All groups of a map, which is padded with zeros at the bottom and on the right.

    Args:
        kind: ``'block'`` or ``'grid'``.
        hw: H and W.
        size: Rows and columns of a group; n is their product.
        offsets: ``(n, n)``, the row of the table of relative positions, which has
            ``(2 rows - 1) * (2 columns - 1)``, for each query and key: key minus query.
        padding: ``(1, K, n)``, True at padded tokens; None if nothing is padded.
    """

    kind: str
    hw: HW
    size: HW
    offsets: Tensor
    padding: Tensor | None

    def split(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, K, n, C)``."""
        return _split(x, self.kind, self.hw, self.size)

    def join(self, groups: Tensor) -> Tensor:
        """``(B, K, n, C) -> (B, H, W, C)``, the inverse of :meth:`split`."""
        counts = group_counts(self.hw, self.size)
        x = groups.unflatten(2, self.size).unflatten(1, counts)
        # to B, rows of cells, columns of cells, C
        order = (0, 1, 3, 2, 4, 5) if self.kind == 'block' else (0, 3, 1, 4, 2, 5)
        x = x.permute(order).flatten(3, 4).flatten(1, 2)
        return x[:, : self.hw[0], : self.hw[1]]


def group_counts(hw: HW, size: HW) -> HW:
    """Number of groups down and across; K is their product. Also the distance in a grid."""
    return -(-hw[0] // size[0]), -(-hw[1] // size[1])


def _split(x: Tensor, kind: str, hw: HW, size: HW) -> Tensor:
    counts = group_counts(hw, size)
    rows, cols = (count * side - cells for count, side, cells in zip(counts, size, hw))
    if rows or cols:
        x = F.pad(x, (0, 0, 0, cols, 0, rows))
    if kind == 'block':
        x = x.unflatten(2, (counts[1], size[1])).unflatten(1, (counts[0], size[0]))
        x = x.permute(0, 1, 3, 2, 4, 5)
    else:
        x = x.unflatten(2, (size[1], counts[1])).unflatten(1, (size[0], counts[0]))
        x = x.permute(0, 2, 4, 1, 3, 5)
    # from B, groups down, groups across, rows, columns, C
    return x.flatten(3, 4).flatten(1, 2)


def plan_groups(kind: str, hw: HW, size: HW, device: torch.device) -> Groups:
    """Partition of a map; it depends on the size of the map, never on its values.

    Args:
        kind: ``'block'`` or ``'grid'``.
        hw: H and W.
        size: Rows and columns of a group.
        device: Of the map.

    Returns:
        The groups, for all attention layers of one stage.
    """
    padding = None
    if hw[0] % size[0] or hw[1] % size[1]:
        real = torch.ones((1, *hw, 1), dtype=torch.bool, device=device)
        padding = ~_split(real, kind, hw, size)[..., 0]
    return Groups(kind, hw, size, relative_offsets(size, device), padding)


def relative_offsets(size: HW, device: torch.device) -> Tensor:
    """Row of the table of relative positions for each query and key, ``(n, n)``."""
    rows, cols = (torch.arange(side, device=device) for side in size)
    down = (rows - rows[:, None] + size[0] - 1) * (2 * size[1] - 1)  # query key
    across = cols - cols[:, None] + size[1] - 1
    table = down[:, None, :, None] + across[None, :, None, :]
    return table.flatten(2).flatten(0, 1)


def places(kind: str, hw: HW, size: HW) -> tuple[Tensor, Tensor]:
    """The group of each cell and its place inside the group, ``(H, W)`` both; for pictures."""
    counts = group_counts(hw, size)
    rows, cols = (torch.arange(side) for side in hw)
    if kind == 'block':
        group = rows // size[0], cols // size[1]
        place = rows % size[0], cols % size[1]
    else:
        group = rows % counts[0], cols % counts[1]
        place = rows // counts[0], cols // counts[1]
    groups = group[0][:, None] * counts[1] + group[1]
    return groups, place[0][:, None] * size[1] + place[1]
