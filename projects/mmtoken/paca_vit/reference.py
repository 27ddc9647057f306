"""Slow, obvious reference implementations of the fast functions in this folder; for tests only.

One loop per letter, no batching, no fused kernels, no reordering. Same names and results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from .attention import PatchToClusterAttention
from .clustering import ConvClustering, MlpClustering


def _row_softmax(scores: Tensor) -> Tensor:
    """Softmax of each row by its definition: the weights of a cluster over all patches."""
    rows = []
    for row in scores:
        powers = (row - row.max()).exp()
        rows.append(powers / powers.sum())
    return torch.stack(rows)


def score_patches(clustering: nn.Module, x: Tensor, hw: HW) -> Tensor:
    """Scores of one sample's patches ``(N, C)`` for each cluster -> ``(M, N)``."""
    layers = clustering.clustering
    if isinstance(clustering, ConvClustering):
        grid = x.T.reshape(1, -1, *hw)
        around = []
        for channel in range(grid.shape[1]):
            at = slice(channel, channel + 1)
            around.append(
                F.conv2d(grid[:, at], layers[0].weight[at], layers[0].bias[at], padding=3)
            )
        x = F.gelu(torch.cat(around, 1))[0].flatten(1).T
        x = F.gelu(x @ layers[2].weight[:, :, 0, 0].T + layers[2].bias)
        return layers[4].weight[:, :, 0, 0] @ x.T
    if isinstance(clustering, MlpClustering):
        x = F.gelu(x @ layers[0].weight.T + layers[0].bias)
        return layers[2].weight @ x.T + layers[2].bias[:, None]
    return layers[0].weight @ x.T


def pool_clusters(assign: Tensor, x: Tensor) -> Tensor:
    """Weighted sum over the patches, cluster by cluster: ``(M, N), (N, C) -> (M, C)``."""
    return torch.stack([sum(w * patch for w, patch in zip(row, x)) for row in assign])


def patch_to_cluster_attention(
    module: PatchToClusterAttention,
    x: Tensor,
    hw: HW,
    assign: Tensor | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention one sample, one head and one patch at a time."""
    x = x if norm is None else norm(x)
    head_dim = x.shape[-1] // module.num_heads
    outs, assigns = [], []
    for b, patches in enumerate(x):
        keys = patches
        if module.num_clusters:
            if module.clustering is not None:
                own = _row_softmax(score_patches(module.clustering, patches, hw))
            else:
                own = assign[b]
            assigns.append(own)
            keys = pool_clusters(own, patches)
            keys = module.cluster_norm(keys)
        rows = []
        for patch in patches:
            heads = []
            for head in range(module.num_heads):
                at = slice(head * head_dim, (head + 1) * head_dim)
                q = module.q(patch)[at]
                k, v = module.k(keys)[:, at], module.v(keys)[:, at]
                weights = _row_softmax((k @ q / head_dim**0.5)[None])[0]
                heads.append(weights @ v)
            rows.append(module.proj(torch.cat(heads)))
        outs.append(torch.stack(rows))
    return torch.stack(outs), torch.stack(assigns) if assigns else None


def resize_and_concatenate(levels: Sequence[Tensor]) -> Tensor:
    """All levels at the resolution of the first -> ``(B, sum of C, H_0, W_0)``."""
    hw = levels[0].shape[2:]
    return torch.cat(
        [F.interpolate(x, size=hw, mode='bilinear', align_corners=False) for x in levels], 1
    )


def project_levels(levels: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Resize and concatenate first, convolve afterwards."""
    return F.conv2d(resize_and_concatenate(levels), weight)


def pool_classes(levels: Sequence[Tensor], scores: Tensor) -> Tensor:
    """Resize and concatenate first, then one weighted sum per sample and class."""
    features = resize_and_concatenate(levels).flatten(2)  # B C N
    return torch.stack(
        [
            torch.stack([(features[b] * row).sum(1) for row in _row_softmax(sample.flatten(1))])
            for b, sample in enumerate(scores)
        ]
    )


def attend_to_classes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention one sample and one position at a time, without a scale."""
    outs = []
    for queries, keys, values in zip(q.flatten(2).transpose(1, 2), k, v):
        rows = [_row_softmax((keys @ query)[None])[0] @ values for query in queries]
        outs.append(torch.stack(rows, 1).view(q.shape[1:]))
    return torch.stack(outs)


def mix_top_down(teacher: nn.Module, stages: list[Tensor]) -> list[Tensor]:
    """The teacher's top-down path with the 1x1 convolution after the resize, as published."""
    maps = [stages[-1]]
    for stage in range(teacher.num_stages - 1, 0, -1):
        own = stages[stage - 1]
        coarse = F.interpolate(maps[0], size=own.shape[2:], mode='bilinear', align_corners=False)
        coarse = getattr(teacher, f'lateral{stage}')(coarse)
        maps.insert(0, getattr(teacher, f'fpn{stage}')(own + coarse))
    return maps
