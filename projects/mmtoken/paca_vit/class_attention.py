"""The arithmetic of the PaCa segmentation head, as pure functions on tensors.

Classes are clusters: the score map of a class, normalised over the *positions*, pools one token,
and every position attends to these K tokens. Two identities avoid the map of all levels at the
finest resolution:

    W concat_i(up(f_i)) = sum_i up(W_i f_i)            1x1 convolutions before the resize
    assign @ up(f)      = (assign pulled back) @ f     pooling on the map's own grid

Source: PaCa-ViT (arXiv:2203.11987), Sec. 3.4. Letters: B batch, K classes, C channels, H x W grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW
from ..common.layers import to_map, to_tokens
from ..common.recorder import is_recording_attention, record_attention


def project_levels(levels: Sequence[Tensor], weight: Tensor) -> Tensor:
    """A bias-free 1x1 convolution of the resized and concatenated levels.

    Args:
        levels: Maps ``(B, C, H_i, W_i)``, finest first.
        weight: ``(D, sum of C, 1, 1)``.

    Returns:
        ``(B, D, H_0, W_0)``.
    """
    hw = levels[0].shape[2:]
    parts = weight.split([level.shape[1] for level in levels], dim=1)
    out = F.conv2d(levels[0], parts[0])
    for level, part in zip(levels[1:], parts[1:]):
        coarse = F.conv2d(level, part)
        out += F.interpolate(coarse, size=hw, mode='bilinear', align_corners=False)
    return out


def resize_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Bilinear resizing of one axis (``align_corners=False``) as a matrix ``(target, source)``."""
    eye = torch.eye(source, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(eye, size=target, mode='linear', align_corners=False)[0].T


def pull_back(assign: Tensor, hw: HW) -> Tensor:
    """The adjoint of bilinear resizing from ``hw`` to the grid of ``assign``.

    Args:
        assign: ``(B, K, H, W)``.
        hw: Grid of the map to be pooled.

    Returns:
        ``(B, K, *hw)`` with the same sum over the positions.
    """
    if tuple(assign.shape[2:]) == tuple(hw):
        return assign
    rows = resize_matrix(hw[0], assign.shape[2], assign)
    cols = resize_matrix(hw[1], assign.shape[3], assign)
    return rows.T @ (assign @ cols)


def pool_classes(levels: Sequence[Tensor], scores: Tensor) -> Tensor:
    """Pool one token per class from the resized and concatenated levels, weighted by its scores.

    Args:
        levels: Maps ``(B, C, H_i, W_i)``, finest first.
        scores: ``(B, K, H_0, W_0)``; a softmax over the positions makes them weights.

    Returns:
        ``(B, K, sum of C)``.
    """
    assign = scores.flatten(2).softmax(-1).view_as(scores).to(levels[0].dtype)
    pooled = [
        pull_back(assign, tuple(level.shape[2:])).flatten(2) @ to_tokens(level) for level in levels
    ]
    return torch.cat(pooled, -1)


class ClassPooling(nn.Module):
    """:func:`pool_classes` as a module, so that it is counted as clustering."""

    def forward(self, levels: Sequence[Tensor], scores: Tensor) -> Tensor:
        return pool_classes(levels, scores)


def attend_to_classes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention from positions to class tokens, without the usual ``1 / sqrt(d)``.

    Args:
        q: ``(B, C, H, W)``.
        k: ``(B, K, C)``.
        v: ``(B, K, C)``.

    Returns:
        ``(B, C, H, W)``.
    """
    if q.device.type == 'cpu' or is_recording_attention():
        # the fused kernel of a CPU needs a copy of the map
        weights = (k @ q.flatten(2)).softmax(1)  # B K N
        record_attention(weights.transpose(1, 2)[:, None])
        return (v.transpose(1, 2) @ weights).view_as(q)
    queries, k, v = to_tokens(q)[:, None], k[:, None], v[:, None]  # B 1 N C, B 1 K C
    out = F.scaled_dot_product_attention(queries, k, v, scale=1.0)
    return to_map(out[:, 0], tuple(q.shape[2:]))


class ClassAttention(nn.Module):
    """:func:`attend_to_classes` as a module, so that it is recorded under its own name."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_to_classes(q, k, v)
