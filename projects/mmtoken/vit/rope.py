"""Axial rotary position embedding: queries and keys of patches are rotated by their coordinates.

Sources: DINOv3 (arXiv:2508.10104), EVA-02 (arXiv:2303.11331). Each head rotates d / 2 pairs of
channels, the first half of them by y, the second by x.

| | ``'dinov3'`` | ``'eva02'`` |
| --- | --- | --- |
| y of row i | ``2 (i + 0.5) / h - 1``: the image is [-1, 1] x [-1, 1] | ``16 i / h`` |
| angle | ``2 pi y / 100^(4j / d)`` | ``y / 10000^(4j / d)`` |
| pairs | channels m and m + d / 2 | channels 2m and 2m + 1 |

Letters: B batch, N = h * w patches, C channels, n heads, d = C / n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.checks import HW, check_choice

FORMS = ('dinov3', 'eva02')
EVA_GRID = 16  # coordinates run from 0 to 16, whatever the size of the map


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of the angle of each pair of channels at each patch.

    Args:
        cos: ``(N, 1, d / 2)``.
        sin: ``(N, 1, d / 2)``.
        interleaved: Whether channels 2m and 2m + 1 are a pair, instead of m and m + d / 2.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool


def check_rope(
    rope: str | None, head_dim: int, img_size: int | None, rel_pos_size: int | None
) -> None:
    """Raise unless rotary positions fit the heads and the other positions of a model."""
    check_choice('rope', rope, (None, *FORMS))
    if rope == 'dinov3' and img_size is not None:
        raise ValueError(
            f"rope='dinov3' replaces absolute positions and needs img_size=None, got {img_size=}"
        )
    if rope is not None and rel_pos_size is not None:
        raise ValueError(
            f'rope must be None in a model with relative positions, got {rope=} and {rel_pos_size=}'
        )
    if rope is not None and head_dim % 4:
        raise ValueError(
            f'rope needs heads with a multiple of 4 channels, got embed_dims / num_heads = '
            f'{head_dim}'
        )


def make_rotation(
    form: str, hw: HW, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Rotation:
    """Rotation of each patch of a map, in at least float32.

    Args:
        form: One of ``FORMS``.
        hw: h and w.
        head_dim: d, a multiple of 4.
        device: Of the result.
        dtype: Of the features.

    Returns:
        The rotation.
    """
    options = dict(device=device, dtype=torch.promote_types(dtype, torch.float32))
    exponent = torch.arange(head_dim // 4, **options) * (4 / head_dim)
    axes = []
    for side in hw:
        cell = torch.arange(side, **options)
        if form == 'dinov3':
            at = (2 * (cell + 0.5) / side - 1) * (2 * math.pi)
            axes.append(at[:, None] / 100**exponent)
        else:
            axes.append((cell * (EVA_GRID / side))[:, None] / 10000**exponent)
    y, x = axes
    angle = torch.cat((y[:, None].expand(*hw, -1), x[None].expand(*hw, -1)), -1)  # h w d/2
    angle = angle.flatten(0, 1)[:, None]
    return Rotation(angle.cos(), angle.sin(), form == 'eva02')


def rotate(x: Tensor, rotation: Rotation, num_heads: int) -> Tensor:
    """Rotate queries or keys of patches; the tokens before the patches stay as they are.

    Args:
        x: ``(B, K + N, C)`` with K tokens before the patches.
        rotation: Of the N patches.
        num_heads: n.

    Returns:
        ``(B, K + N, C)``.
    """
    num_prefix = x.shape[1] - rotation.cos.shape[0]
    pairs = x[:, num_prefix:].unflatten(-1, (num_heads, -1)).to(rotation.cos.dtype)
    axis = -1 if rotation.interleaved else -2
    shape = (-1, 2) if rotation.interleaved else (2, -1)
    u, v = pairs.unflatten(-1, shape).unbind(axis)
    cos, sin = rotation.cos, rotation.sin
    turned = torch.stack((u * cos - v * sin, v * cos + u * sin), axis).flatten(-2).flatten(-2)
    return torch.cat((x[:, :num_prefix], turned.to(x.dtype)), 1)
