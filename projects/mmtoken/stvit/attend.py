"""Attention between patches and semantic tokens, as arranged by a plan.

Keys and values are projected once per token and gathered afterwards; all padded tokens share one
key and value. Every function takes ``q``, keys and values ``kv`` side by side, those of a padded
token (``outside``, or None) and the number of heads, and returns a tensor like ``q``.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Letters as in plan.py; M keys, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.memory import recompute
from ..common.windows import merge_windows, partition_windows
from .plan import Geometry, Neighborhood, Tile, gather_neighborhoods


def attend_all(
    q: Tensor, kv: Tensor, _outside: None, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attend from ``(B, N, C)`` to all of ``(B, M, 2C)``.

    Args:
        q: Queries.
        kv: Keys and values.
        _outside: Unused.
        num_heads: h.
        bias: On the logits, ``(M,)`` or broadcast to ``(B, h, N, M)``.

    Returns:
        ``(B, N, C)``.
    """
    k, v = kv.chunk(2, -1)
    if bias is not None and bias.ndim == 1:
        bias = bias.expand(1, 1, q.shape[1], -1)
    return multi_head_attention(q, k, v, num_heads, bias)


def attend_neighborhood(
    q: Tensor, kv: Tensor, outside: Tensor, num_heads: int, near: Neighborhood
) -> Tensor:
    """Attend from the semantic tokens of each window to the patches around it.

    Args:
        q: ``(B, s * K_down, s * K_across, C)``.
        kv: ``(B, H, W, 2C)``.
        outside: ``(2C,)``.
        num_heads: h.
        near: The neighbourhoods.

    Returns:
        As ``q``.
    """
    # recomputed because the squares hold each patch 4 or 9 times
    return recompute(_attend_squares, q, kv, outside, num_heads, near)


def _attend_squares(
    q: Tensor, kv: Tensor, outside: Tensor, num_heads: int, near: Neighborhood
) -> Tensor:
    side = near.geometry.semantic_window
    squares = gather_neighborhoods(kv, outside, near.kernel, near.geometry.window_size)
    k, v = squares.chunk(2, -1)
    bias = None if near.bias is None else near.bias.repeat(q.shape[0], 1, side * side, 1)
    out = multi_head_attention(partition_windows(q, side), k, v, num_heads, bias)
    return merge_windows(out, side, near.geometry.semantic_hw)


def attend_crops(
    q: Tensor,
    kv: Tensor,
    _outside: None,
    num_heads: int,
    geometry: Geometry,
    index: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Attend from the semantic tokens of each window to themselves and to a crop of the map.

    Args:
        q: ``(B, s * K_down, s * K_across, C)``.
        kv: ``(B, S + N, 2C)`` of the semantic tokens, then of the patches.
        _outside: Unused, because crops do not leave the map.
        num_heads: h.
        geometry: Sizes.
        index: ``(K, n)`` patches of each crop.
        bias: ``(K, 1, 1, s * s)`` on the logits of the semantic tokens, or None.

    Returns:
        As ``q``.
    """
    side, hw = geometry.semantic_window, geometry.semantic_hw
    num_semantic = hw[0] * hw[1]
    own = partition_windows(kv[:, :num_semantic].unflatten(1, hw), side)  # B*K s*s 2C
    crops = kv[:, num_semantic:].index_select(1, index.flatten()).unflatten(1, index.shape)
    k, v = torch.cat((own, crops.flatten(0, 1)), 1).chunk(2, -1)
    if bias is not None:
        bias = F.pad(bias, (0, index.shape[1])).repeat(q.shape[0], 1, side * side, 1)
    out = multi_head_attention(partition_windows(q, side), k, v, num_heads, bias)
    return merge_windows(out, side, hw)


def attend_tiles(
    q: Tensor, kv: Tensor, outside: Tensor | None, num_heads: int, tiles: Sequence[Tile]
) -> Tensor:
    """Attend from patches to the semantic tokens around their windows.

    Args:
        q: ``(B, H, W, C)``.
        kv: ``(B, s * K_down, s * K_across, 2C)``.
        outside: ``(2C,)``; None if no tile sees the outside.
        num_heads: h.
        tiles: The map in raster order.

    Returns:
        ``(B, H, W, C)``.
    """
    rows: dict[int, list[Tensor]] = {}
    for tile in tiles:
        queries = q[:, tile.rows, tile.cols]
        keys = kv[:, tile.key_rows, tile.key_cols].flatten(1, 2)
        if tile.sees_outside:
            keys = torch.cat((keys, outside.to(keys.dtype).expand(keys.shape[0], 1, -1)), 1)
        k, v = keys.chunk(2, -1)
        out = multi_head_attention(queries.flatten(1, 2), k, v, num_heads, tile.bias)
        start = tile.rows.start
        rows[start] = [*rows.get(start, []), out.unflatten(1, queries.shape[1:3])]
    return torch.cat([torch.cat(row, 2) for row in rows.values()], 1)
