"""Cluster assignments: from patches to M soft clusters (PaCa-ViT, arXiv:2203.11987, Sec. 3.2).

A clustering module scores every patch for every cluster; a softmax over the *patches* turns the
scores of one cluster into weights that sum to 1 over the image. Clusters do not compete for a
patch. Parameter names are those of the released checkpoints.

Letters: B batch, N patches = H*W, M clusters, C channels.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.checks import HW, building, check_choice, check_config
from ..common.layers import to_map
from ..common.memory import recompute_if_large


def assign_patches(scores: Tensor) -> Tensor:
    """Scores ``(B, M, N)`` -> assignment ``(B, M, N)``; row m sums to 1 over the patches.

    Weights near 1 / N need more digits than half precision has; autocast runs the softmax in
    float32.
    """
    return scores.softmax(-1)


def pool_clusters(assign: Tensor, x: Tensor) -> Tensor:
    """Weighted mean of the patches of each cluster: ``(B, M, N), (B, N, C) -> (B, M, C)``."""
    return assign.to(x.dtype) @ x


class ClusterPooling(nn.Module):
    """:func:`pool_clusters` as a module, so that it is counted as clustering."""

    def forward(self, assign: Tensor, x: Tensor) -> Tensor:
        return pool_clusters(assign, x)


class ConvClustering(nn.Module):
    """Score patches with a 7x7 depthwise and two 1x1 convolutions.

    Large results after the first are recomputed in the backward pass.

    Args:
        dim: C.
        num_clusters: M.

    Shape:
        - x: ``(B, N, C)`` in raster order.
        - hw: the grid, ``(H, W)``.
        - returns: scores ``(B, M, N)``.
    """

    def __init__(self, dim: int, num_clusters: int) -> None:
        super().__init__()
        self.clustering = nn.Sequential(
            nn.Conv2d(dim, dim, 7, padding=3, groups=dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
            nn.GELU(),
            nn.Conv2d(dim, num_clusters, 1, bias=False),
        )

    def forward(self, x: Tensor, hw: HW) -> Tensor:
        mixed = self.clustering[0](to_map(x, hw))
        return recompute_if_large(self._score, mixed).flatten(2)

    def _score(self, x: Tensor) -> Tensor:
        for layer in list(self.clustering)[1:]:
            x = layer(x)
        return x


class MlpClustering(nn.Module):
    """Score each patch independently with a two-layer MLP of hidden width 4 C.

    The last bias cancels in the softmax over the patches; released checkpoints contain it.

    Args:
        dim: C.
        num_clusters: M.

    Shape:
        - x: ``(B, N, C)``.
        - hw: the grid; unused.
        - returns: scores ``(B, M, N)``.
    """

    def __init__(self, dim: int, num_clusters: int) -> None:
        super().__init__()
        self.clustering = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, num_clusters)
        )

    def forward(self, x: Tensor, hw: HW) -> Tensor:
        return self.clustering(x).transpose(1, 2)


class LinearClustering(nn.Module):
    """Score each patch with one linear layer; no released model uses it.

    Args:
        dim: C.
        num_clusters: M.

    Shape:
        - x: ``(B, N, C)``.
        - hw: the grid; unused.
        - returns: scores ``(B, M, N)``.
    """

    def __init__(self, dim: int, num_clusters: int) -> None:
        super().__init__()
        self.clustering = nn.Sequential(nn.Linear(dim, num_clusters, bias=False))

    def forward(self, x: Tensor, hw: HW) -> Tensor:
        return self.clustering(x).transpose(1, 2)


CLUSTERINGS = {'conv': ConvClustering, 'mlp': MlpClustering, 'linear': LinearClustering}


def build_clustering(clustering: str | dict, dim: int, num_clusters: int) -> nn.Module:
    """Build a clustering module by name, or a custom registered one.

    Args:
        clustering: ``'conv'``, ``'mlp'``, ``'linear'``, or ``dict(type=...)`` of a registered
            module that takes ``dim`` and ``num_clusters`` and maps ``x (B, N, C), hw`` to scores
            ``(B, M, N)``.
        dim: C.
        num_clusters: M.

    Returns:
        The module.
    """
    if isinstance(clustering, dict):
        check_config('clustering', clustering)
        with building('clustering', clustering):
            return MODELS.build(dict(clustering, dim=dim, num_clusters=num_clusters))
    check_choice('clustering', clustering, CLUSTERINGS)
    return CLUSTERINGS[clustering](dim, num_clusters)
