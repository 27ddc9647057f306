"""What TCFormer records, and its pictures: which cells share a token, and token scores.

Source: TCFormer (arXiv:2204.08680), Fig. 1. Letters: B batch, N tokens before and M after merging.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..common.records import Heats, Record, Regions
from .tokens import TokenSet

STRIDE = 4  # of the initial grid


@dataclass(frozen=True)
class StageTokens(Record):
    """The tokens at the end of a stage.

    Args:
        stage: 1-based index.
        tokens: The token set.
    """

    tokens: TokenSet

    def pictures(self, sample: int) -> list[Regions]:
        """The cells of each token."""
        tokens, (height, width) = self.tokens, self.tokens.hw
        title = f'stage {self.stage}: {tokens.num_tokens} tokens, {height} x {width} map'
        labels = tokens.assign_idx[sample].view(tokens.init_hw)
        return [Regions(f'stage{self.stage}', title, labels, STRIDE)]


@dataclass(frozen=True)
class TokenMerge(Record):
    """The clustering at the start of a stage.

    Args:
        stage: 1-based index.
        tokens: Token set before merging.
        assign_idx: ``(B, N)``, the cluster of each token.
        center_idx: ``(B, M)``, the token at the centre of each cluster.
        score: ``(B, N, 1)``; log-weight of a token in its cluster, and its attention bias.
    """

    tokens: TokenSet
    assign_idx: Tensor
    center_idx: Tensor
    score: Tensor

    def pictures(self, sample: int) -> list[Heats]:
        """The score of the token that owns each cell."""
        cells = self.tokens.assign_idx[sample].view(self.tokens.init_hw)
        values = self.score[sample, :, 0][cells]
        title = f'stage {self.stage}: scores of the tokens it merges'
        return [Heats(f'stage{self.stage}_scores', title, values[None], STRIDE)]
