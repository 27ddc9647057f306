"""Attention of windows laid out over the whole map, for drawing and analysis.

Letters: B batch, K windows, h heads, w side of a window, s side of its semantic tokens, N = H*W
patches, S semantic tokens, both in raster order.
"""

from __future__ import annotations

from torch import Tensor

from ..common.windows import merge_windows
from .plan import Geometry, Neighborhood


def neighborhood_attention(weights: Tensor, near: Neighborhood) -> Tensor:
    """Weights on the squares around windows -> weights on all patches, the mean over heads.

    Args:
        weights: ``(B * K, h, s * s, kernel * kernel)``.
        near: The squares.

    Returns:
        ``(B, S, N)``; what fell on padding is left out.
    """
    geometry, kernel = near.geometry, near.kernel
    size, (down, across) = geometry.window_size, geometry.grid
    squares = weights.mean(1).unflatten(0, (-1, down, across)).unflatten(-1, (kernel, kernel))
    reach = kernel - size
    sides = (down * size + reach, across * size + reach)
    canvas = squares.new_zeros(*squares.shape[:4], *sides)
    for row in range(down):
        for col in range(across):
            top, left = row * size, col * size
            canvas[:, row, col, :, top : top + kernel, left : left + kernel] = squares[:, row, col]
    start = reach // 2
    rows, cols = (slice(start, start + side) for side in geometry.hw)
    inside = canvas[..., rows, cols]  # B down across s*s H W
    return _by_semantic_token(inside.flatten(4).flatten(0, 2), geometry)


def crop_attention(weights: Tensor, geometry: Geometry, index: Tensor) -> Tensor:
    """Weights on semantic tokens and crops -> weights on all patches, the mean over heads.

    Args:
        weights: ``(B * K, h, s * s, s * s + n)``.
        geometry: Sizes.
        index: ``(K, n)``, the patches of each crop.

    Returns:
        ``(B, S, N)``; what fell on semantic tokens is left out.
    """
    crops = weights.mean(1)[..., geometry.semantic_window**2 :]
    batch = len(crops) // len(index)
    places = index.repeat(batch, 1)[:, None].expand_as(crops)
    spread = crops.new_zeros(*crops.shape[:2], geometry.hw[0] * geometry.hw[1])
    return _by_semantic_token(spread.scatter(2, places, crops), geometry)


def _by_semantic_token(windows: Tensor, geometry: Geometry) -> Tensor:
    """``(B * K, s * s, N)`` -> ``(B, S, N)``."""
    return merge_windows(windows, geometry.semantic_window, geometry.semantic_hw).flatten(1, 2)
