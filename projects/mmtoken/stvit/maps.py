"""What STViT records, and its pictures: the attention between patches and semantic tokens.

Source: STViT (arXiv:2303.08685), Fig. 4. Letters: B batch, N = H*W patches, S semantic tokens in
raster order. Attention weights are means over the heads. A row sums to at most 1: the rest falls
on padding or, in generation, on other semantic tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW
from ..common.records import Heats, Record, Regions

STRIDE = 16  # of the patches that semantic tokens are generated from


@dataclass(frozen=True)
class SemanticUnit(Record):
    """One unit: generation from patches, attention between semantic tokens, maybe recovery.

    Args:
        stage: 1-based index.
        number: 0-based index of the unit within its stage.
        hw: H and W.
        padded_hw: Sides of the map in whole windows, which the tokens divide evenly.
        semantic_hw: Rows and columns of semantic tokens.
        semantic_tokens: ``(B, S, C)`` at the end of the unit.
        generate: ``(B, S, N)``, attention of each token to the patches in the first step; None
            if no attention is recorded.
        refine: ``(B, S, N)``, the same in the second step.
        recover: ``(B, N, S)``, attention of each patch to the tokens; None without recovery.
    """

    number: int
    hw: HW
    padded_hw: HW
    semantic_hw: HW
    semantic_tokens: Tensor
    generate: Tensor | None = None
    refine: Tensor | None = None
    recover: Tensor | None = None

    def pictures(self, sample: int) -> list[Regions | Heats]:
        """The strongest token of each patch, and the attention of each token in each step."""
        weights = {
            'generate': self.generate,
            'refine': self.refine,
            'recover': None if self.recover is None else self.recover.transpose(1, 2),
        }
        maps = {
            step: values[sample].unflatten(-1, self.hw)
            for step, values in weights.items()
            if values is not None
        }
        if not maps:
            raise ValueError(
                'pictures of semantic tokens need attention weights, got a record without; use '
                'record_tokens(model, attention=True)'
            )
        name, where = f'stage{self.stage}_unit{self.number}', f'stage {self.stage}, unit'
        where = f'{where} {self.number}: {self.semantic_hw[0]} x {self.semantic_hw[1]} tokens'
        strongest = maps[list(maps)[-1]].argmax(0)
        return [
            Regions(name, f'{where}, the strongest at each patch', strongest, STRIDE),
            *(
                Heats(
                    f'{name}_{step}',
                    f'{where}, {step}: attention in %',
                    (100 * values).masked_fill(values == 0, torch.nan),
                    STRIDE,
                    self.boxes(),
                )
                for step, values in maps.items()
            ),
        ]

    def boxes(self) -> Tensor:
        """``(S, 4)``, the patches from which each token is pooled; may lie outside the map."""
        edges = []
        for side, count in zip(self.padded_hw, self.semantic_hw):
            first = torch.arange(count)
            edges.append((first * side // count, -((first + 1) * side // -count)))
        (top, bottom), (left, right) = edges
        rows, cols = torch.meshgrid(torch.arange(len(top)), torch.arange(len(left)), indexing='ij')
        return torch.stack((top[rows], left[cols], bottom[rows], right[cols]), -1).flatten(0, 1)
