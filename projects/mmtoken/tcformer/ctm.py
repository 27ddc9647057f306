"""Merging the tokens of a cluster, and the clustering-based token merge (CTM) block.

Source: TCFormer (CVPR 2022), Sec. 3.2 (Clustering-based Token Merge block).

Letters: B batch, N tokens before and M after merging, N0 grid cells, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from ..common.recorder import record
from .bags import flatten_rows, group_rows
from .clustering import Clustering, cluster_dpc_knn
from .maps import TokenMerge
from .parts import cluster_by_parts, grid_parts, run_parts
from .tokens import (
    EPS,
    TokenSet,
    map_to_tokens,
    no_autocast,
    tokens_to_map,
)


def halve(hw: HW) -> HW:
    """Map size after a stride-2 step: ``ceil(side / 2)``."""
    return (hw[0] + 1) // 2, (hw[1] + 1) // 2


def merge_tokens(
    tokens: TokenSet, assign_idx: Tensor, num_clusters: int, weight: Tensor | None = None
) -> TokenSet:
    """Replace each cluster of tokens by their weighted mean.

    Args:
        tokens: N tokens.
        assign_idx: ``(B, N)`` long in [0, M).
        num_clusters: M.
        weight: ``(B, N, 1)`` positive weight of each token; all ones by default.

    Returns:
        M tokens with the same ``hw``. ``token_weight`` is multiplied by the share of the merged
        token in its cluster. It is *not* divided by its maximum: the authors' code computes that
        quotient and discards it, so the released models were trained without.
    """
    batch, num_tokens, dim = tokens.x.shape
    if weight is None:
        weight = tokens.x.new_ones(batch, num_tokens, 1)
    wide = torch.promote_types(tokens.x.dtype, torch.float32)
    with no_autocast(tokens.x):
        clusters = group_rows(assign_idx, num_clusters)
        bags = clusters.bags(flatten_rows(clusters.order, num_tokens))
        weight = weight.to(wide)
        total = bags.sum(weight.reshape(-1, 1)).view(batch, num_clusters, 1) + EPS
        share = weight / total.gather(1, assign_idx[..., None])  # B N 1, sums to 1 per cluster
        merged = bags.sum(tokens.x.to(wide).reshape(-1, dim), share.flatten()[bags.rows])

        owner = tokens.assign_idx
        inherited = share.detach().gather(1, owner[..., None])  # B N0 1
    return TokenSet(
        x=merged.view(batch, num_clusters, dim).to(tokens.x.dtype),
        assign_idx=assign_idx.gather(1, owner),
        token_weight=tokens.token_weight * inherited.to(tokens.token_weight.dtype),
        init_hw=tokens.init_hw,
        hw=tokens.hw,
    )


class TokenConv(nn.Conv2d):
    """A convolution on the map of the tokens, plus a linear skip connection per token.

    ``skip(x) + map_to_tokens(conv(tokens_to_map(x)))``. Arguments are those of ``nn.Conv2d``;
    ``skip`` is a bias-free 1x1 convolution with the same groups.

    Shape:
        - tokens: N tokens of ``in_channels``.
        - returns: ``(B, N, out_channels)``; N is kept, also with a stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
        self.skip = nn.Conv1d(in_channels, out_channels, 1, groups=groups, bias=False)

    def forward(self, tokens: TokenSet) -> Tensor:
        x, weight = tokens.x, self.skip.weight.squeeze(2)
        spread = map_to_tokens(super().forward(tokens_to_map(tokens)), tokens)
        # the 1x1 convolution as a product on (B, N, C): grouped ones are slow on CPUs
        if self.groups == 1:
            return spread + F.linear(x, weight)
        if weight.shape == (self.in_channels, 1):
            return torch.addcmul(spread, x, weight.squeeze(1))
        return spread + self.skip(x.transpose(1, 2)).transpose(1, 2)


class ClusteringTokenMerge(nn.Module):
    """CTM: convolve, score, cluster and merge tokens; the transition between two stages.

    Args:
        in_dim: C of the incoming tokens.
        out_dim: C of the merged tokens.
        sample_ratio: Merged tokens per incoming token, in (0, 1]; M = ceil(N * ratio).
        num_neighbors: k of the density.
        density_noise: Amplitude of the density noise, drawn in training only.
        local_parts: Parts per side at this and the later stages, e.g. ``(4, 2, 1)``, to cluster
            part by part; None clusters globally.

    Shape:
        - tokens: N tokens of ``in_dim``.
        - returns: the merged M tokens of ``out_dim`` on the halved map; the N tokens of
          ``out_dim`` before merging, still on the old map; their score ``(B, N, 1)``.
    """

    counts_as = {'': 'clustering'}
    recomputes = ('baddbmm_',)  # distances, see relative_squares

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        sample_ratio: float = 0.25,
        num_neighbors: int = 5,
        density_noise: float = 0.0,
        local_parts: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.sample_ratio = sample_ratio
        self.num_neighbors = num_neighbors
        self.density_noise = density_noise
        self.local_parts = local_parts
        self.conv = TokenConv(in_dim, out_dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)
        self.score = nn.Linear(out_dim, 1)

    def forward(self, tokens: TokenSet, stage: int) -> tuple[TokenSet, TokenSet, Tensor]:
        tokens = tokens.with_x(self.norm(self.conv(tokens)))
        score = self.score(tokens.x)  # B N 1
        clustering = self.cluster(tokens)
        with no_autocast(score):
            # float16 overflows at exp(11.1)
            weight = score.to(torch.promote_types(score.dtype, torch.float32)).exp()
        merged = merge_tokens(tokens, clustering.assign_idx, clustering.num_clusters, weight)
        record(TokenMerge(stage, tokens, clustering.assign_idx, clustering.center_idx, score))
        return merged.with_hw(halve(tokens.hw)), tokens, score

    def cluster(self, tokens: TokenSet) -> Clustering:
        """Cluster normalised tokens, globally or part by part."""
        num_clusters = max(math.ceil(tokens.num_tokens * self.sample_ratio), 1)
        noise = self.density_noise if self.training else 0.0
        if self.local_parts is None or (self.local_parts[0] == 1 and not tokens.on_grid):
            return cluster_dpc_knn(tokens.x, num_clusters, self.num_neighbors, noise)
        if tokens.on_grid:
            parts = grid_parts(tokens.init_hw, self.local_parts, tokens.x.device)
        else:
            parts = run_parts(tokens.num_tokens, self.local_parts[0] ** 2, tokens.x.device)
        return cluster_by_parts(tokens.x, parts, num_clusters, self.num_neighbors, noise)

    def extra_repr(self) -> str:
        return (
            f'sample_ratio={self.sample_ratio}, num_neighbors={self.num_neighbors}, '
            f'density_noise={self.density_noise}, local_parts={self.local_parts}'
        )
