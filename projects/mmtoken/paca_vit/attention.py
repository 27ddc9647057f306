"""Patch-to-cluster attention (PaCa-ViT, arXiv:2203.11987, Sec. 3.2).

Patches are the queries, a few clusters of them the keys and values: O(N*M) instead of O(N*N).

Letters: B batch, N patches = H*W, M clusters, C channels, h heads, d = C / h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..common.attention import multi_head_attention
from ..common.checks import HW, check_bool, check_divides, check_int, check_range
from .clustering import ClusterPooling, assign_patches, build_clustering

NORM_EPS = 1e-6


class PatchToClusterAttention(nn.Module):
    """Attend from N patches to M clusters of them, or to all patches if M is 0.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        num_clusters: M; 0 for plain self-attention.
        clustering: Computes the assignment, see
            :func:`~mmtoken.paca_vit.clustering.build_clustering`; with None, it is an argument of
            ``forward``.
        cluster_pos_embed: Add a learned embedding to each cluster before its norm.
        attn_drop: Dropout on the attention weights, in [0, 1).
        proj_drop: Dropout on the output, in [0, 1).

    Shape:
        - x: ``(B, N, C)`` in raster order.
        - hw: the grid, ``(H, W)``.
        - assign: ``(B, M, N)`` or None.
        - returns: ``(B, N, C)`` and the assignment used (None if M is 0).
    """

    counts_as = {'clustering': 'clustering', 'pool': 'clustering'}

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_clusters: int,
        clustering: str | dict | None = None,
        cluster_pos_embed: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        check_int('num_clusters', num_clusters, 0)
        check_bool('cluster_pos_embed', cluster_pos_embed)
        check_range('attn_drop', attn_drop, 0, 1)
        check_range('proj_drop', proj_drop, 0, 1)
        self.num_heads = num_heads
        self.num_clusters = num_clusters
        self.attn_drop = attn_drop
        self.pool = ClusterPooling() if num_clusters else None
        self.cluster_norm = nn.LayerNorm(dim, eps=NORM_EPS) if num_clusters else None
        self.clustering = None
        if num_clusters and clustering is not None:
            self.clustering = build_clustering(clustering, dim, num_clusters)
        self.cluster_pos_enc = None
        if num_clusters and cluster_pos_embed:
            self.cluster_pos_enc = nn.Parameter(torch.empty(1, num_clusters, dim))
            nn.init.trunc_normal_(self.cluster_pos_enc, std=0.02)
        # separate, as in released checkpoints
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: Tensor, hw: HW, assign: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if self.clustering is not None:
            assign = assign_patches(self.clustering(x, hw))
        keys = x if self.cluster_norm is None else self._cluster_tokens(x, assign)
        dropout = self.attn_drop if self.training else 0.0
        out = multi_head_attention(
            self.q(x), self.k(keys), self.v(keys), self.num_heads, dropout=dropout
        )
        return self.proj_drop(self.proj(out)), assign

    def _cluster_tokens(self, x: Tensor, assign: Tensor) -> Tensor:
        clusters = self.pool(assign, x)  # B M C
        if self.cluster_pos_enc is not None:
            clusters = clusters + self.cluster_pos_enc
        return self.cluster_norm(clusters)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, num_clusters={self.num_clusters}'
