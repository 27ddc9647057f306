"""What MaxViT records, and its pictures: blocks and grids, and the attention of one cell.

Letters: B batch, H and W cells, K groups, h heads, n tokens of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW, check_int
from ..common.records import Heats, Record, Regions
from .partition import places


@dataclass(frozen=True)
class GroupAttention(Record):
    """Attention of one MaxViT block, inside its windows (``'block'``) or its grids.

    Args:
        stage: 1-based index.
        block: 0-based index of the block within its stage.
        kind: ``'block'`` or ``'grid'``.
        hw: H and W.
        size: Rows and columns of a group.
        attention: ``(B * K, h, n, n)``, queries by keys; None if no attention is recorded.
    """

    block: int
    kind: str
    hw: HW
    size: HW
    attention: Tensor | None = None

    @property
    def stride(self) -> int:
        """Side of a cell in pixels of the image."""
        return 2 ** (self.stage + 1)

    @property
    def name(self) -> str:
        """Short name, for files."""
        return f'stage{self.stage}_block{self.block}_{self.kind}'

    def pictures(self, sample: int) -> list[Regions | Heats]:
        """The groups, once per stage, and the attention of the cell in the middle."""
        labels, _ = places(self.kind, self.hw, self.size)
        title = f'stage {self.stage}, {self.kind}: {self.size[0]} x {self.size[1]} cells per group'
        found = [] if self.block else [Regions(self.name, title, labels, self.stride)]
        if self.attention is not None:
            found.append(self.attention_of(sample, (self.hw[0] // 2, self.hw[1] // 2)))
        return found

    def group_of(self, cell: HW) -> Regions:
        """The cells that a cell attends to.

        Args:
            cell: Row and column, e.g. those of a clicked pixel divided by ``stride``.

        Returns:
            Labels 2 at the cell, 1 in the rest of its group and 0 elsewhere.

        Raises:
            ValueError: If the cell is outside the map.
        """
        self._check_cell(cell)
        labels, _ = places(self.kind, self.hw, self.size)
        group = (labels == labels[cell]).long()
        group[cell] = 2
        title = f'stage {self.stage}, {self.kind} of cell {cell}'
        return Regions(f'{self.name}_{cell[0]}_{cell[1]}', title, group, self.stride)

    def attention_of(self, sample: int, cell: HW) -> Heats:
        """Attention of one cell, one map per head, in percent; NaN outside its group.

        Args:
            sample: Index within the batch.
            cell: Row and column, e.g. those of a clicked pixel divided by ``stride``.

        Returns:
            ``(h, H, W)`` with a box around the cell.

        Raises:
            ValueError: If the cell is outside the map, or no attention was recorded.
        """
        self._check_cell(cell)
        if self.attention is None:
            raise ValueError(
                'attention of a cell needs attention weights, got a record without; use '
                'record_tokens(model, attention=True)'
            )
        labels, position = places(self.kind, self.hw, self.size)
        inside = labels == labels[cell]
        number = int(labels.max()) + 1  # groups without a real cell do not exist
        weights = self.attention[sample * number + int(labels[cell]), :, int(position[cell])].cpu()
        values = torch.full((len(weights), *self.hw), torch.nan)
        values[:, inside] = 100 * weights[:, position[inside]].float()
        top, left = cell
        box = torch.tensor([[top, left, top + 1, left + 1]]).expand(len(weights), -1)
        title = f'stage {self.stage}, block {self.block}, {self.kind}: attention of {cell} in %'
        return Heats(f'{self.name}_attention', title, values, self.stride, box)

    def _check_cell(self, cell: HW) -> None:
        for name, index, side in zip(('row', 'column'), cell, self.hw):
            check_int(name, index, 0)
            if index >= side:
                raise ValueError(
                    f'{name} of a cell must be in [0, {side}), got {index}; the map of stage '
                    f'{self.stage} has {self.hw[0]} x {self.hw[1]} cells'
                )
