"""What PaCa-ViT records, and its pictures: the strongest cluster of each patch, every cluster.

Source: PaCa-ViT (arXiv:2203.11987), Fig. 1. Letters: B batch, M clusters, N = H*W patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..common.checks import HW
from ..common.records import Heats, Record, Regions


@dataclass(frozen=True)
class SoftClusters(Record):
    """The clusters that a block computes; the blocks up to the next record share them.

    Args:
        stage: 1-based index.
        block: 0-based index of the block within its stage.
        hw: H and W.
        assign: ``(B, M, N)``; each row is a distribution over the patches.
    """

    block: int
    hw: HW
    assign: Tensor

    def pictures(self, sample: int) -> list[Regions | Heats]:
        """The cluster with the largest weight at each patch, and the weights of each cluster."""
        assign = self.assign[sample].unflatten(-1, self.hw)
        stride = 2 ** (self.stage + 1)
        name, where = f'stage{self.stage}', f'stage {self.stage}'
        if self.block:
            name, where = f'{name}_block{self.block}', f'{where}, block {self.block}'
        title = f'{where}: {len(assign)} clusters, {self.hw[0]} x {self.hw[1]} map'
        return [
            Regions(name, title, assign.argmax(0), stride),
            Heats(
                f'{name}_clusters',
                f'{title}; weights in multiples of 1 / N',
                assign * assign[0].numel(),
                stride,
            ),
        ]
