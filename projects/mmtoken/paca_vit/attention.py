"""Patch-to-cluster attention (PaCa-ViT, arXiv:2203.11987, Sec. 3.2).

Patches are the queries, a few clusters of them the keys and values: O(N*M) instead of O(N*N).

Letters: B batch, N patches = H*W, M clusters, C channels, h heads, d = C / h.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..common.attention import multi_head_attention
from ..common.checks import HW, check_divides, check_int, check_range
from ..common.memory import recompute_if_large
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
        attn_drop: Dropout on the attention weights, in [0, 1).
        proj_drop: Dropout on the output, in [0, 1).

    Shape:
        - x: ``(B, N, C)`` in raster order.
        - hw: the grid, ``(H, W)``.
        - assign: ``(B, M, N)`` or None.
        - norm: applied to ``x`` first; a large output is recomputed in the backward pass.
        - returns: ``(B, N, C)`` and the assignment used (None if M is 0).
    """

    counts_as = {'clustering': 'clustering', 'pool': 'clustering'}

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_clusters: int,
        clustering: str | dict | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        check_int('num_clusters', num_clusters, 0)
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
        # separate, as in released checkpoints
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self, x: Tensor, hw: HW, assign: Tensor | None = None, norm: nn.Module | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if self.clustering is not None:
            x, norm = x if norm is None else norm(x), None  # the clustering keeps it
            assign = assign_patches(self.clustering(x, hw))
        if norm is None:
            keys, q = self._read(x, assign)
        else:
            keys, q = recompute_if_large(self._read, x, assign, norm)
        keys = keys if self.pool is None else self.cluster_norm(keys)
        k, v = self.k(keys), self.v(keys)
        dropout = self.attn_drop if self.training else 0.0
        out = multi_head_attention(q, k, v, self.num_heads, dropout=dropout)
        return self.proj_drop(self.proj(out)), assign

    def _read(
        self, x: Tensor, assign: Tensor | None, norm: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Clusters ``(B, M, C)``, or all patches, and queries ``(B, N, C)``."""
        x = x if norm is None else norm(x)
        return x if self.pool is None else self.pool(assign, x), self.q(x)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, num_clusters={self.num_clusters}'
