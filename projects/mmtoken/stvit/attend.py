"""Recovery: patches attend to the semantic tokens around them and are dense again.

Source: STViT-R (arXiv:2303.08685), Sec. 3 (recovery, "dumbbell unit"). Every window of patches sees
a square of semantic tokens, which overlap by far; nothing is copied per window. Windows are taken
in tiles of a few, whose squares are almost the same: one dense attention with a bias each.

Letters: B batch, H and W sides of the map of patches, S semantic tokens, w side of a window, s side
of its semantic tokens, C channels, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.attention import multi_head_attention
from .semantic_tokens import Geometry, hide, visible_keys

# Windows of a tile down and across: more of them do more work that the bias throws away, fewer
# make more calls.
TILE = 4


@dataclass(frozen=True)
class Tile:
    """A rectangle of windows and the semantic tokens that it sees.

    Args:
        rows: Its rows of patches.
        cols: Its columns of patches.
        key_rows: Rows of semantic tokens.
        key_cols: Columns of semantic tokens.
        bias: ``(1, 1, patches, keys)`` on the logits, None where every patch sees every key. With
            one more key than there are semantic tokens, that is what stands outside their map.
        sees_outside: Whether there is that key.
    """

    rows: slice
    cols: slice
    key_rows: slice
    key_cols: slice
    bias: Tensor | None
    sees_outside: bool


@dataclass(frozen=True)
class _Span:
    """One axis: windows from ``first`` to before ``last``, and the keys that they see."""

    first: int
    last: int
    queries: slice
    keys: slice
    whole: bool  # every window sees all these keys

    def sees(self, start: int, kernel: int, side: int, device: torch.device) -> Tensor:
        """``(windows, keys)`` booleans."""
        windows = torch.arange(self.first, self.last, device=device)[:, None] * side - start
        keys = torch.arange(self.keys.start, self.keys.stop, device=device)
        return (keys >= windows) & (keys < windows + kernel)


def _spans(length: int, count: int, geometry: Geometry, kernel: int, tile: int) -> list[_Span]:
    w, s = geometry.window_size, geometry.semantic_window
    start = (kernel - s) // 2
    spans = []
    for first in range(0, count, tile):
        last = min(first + tile, count)
        keys = slice(max(first * s - start, 0), min((last - 1) * s - start + kernel, count * s))
        whole = first * s - start + kernel >= keys.stop and (last - 1) * s - start <= keys.start
        queries = slice(first * w, min(last * w, length))
        spans.append(_Span(first, last, queries, keys, whole))
    return spans


def plan_recovery(
    geometry: Geometry,
    kernel: int | None,
    mask: str,
    device: torch.device,
    dtype: torch.dtype,
    tile: int = TILE,
) -> list[Tile]:
    """What every unit of a stage shares: which patches see which semantic tokens.

    Args:
        geometry: Sizes.
        kernel: Side of the square of semantic tokens that a window sees, centred on its own; None:
            all of them.
        mask: See :func:`~mmtoken.stvit.semantic_tokens.visible_keys`.
        device: Where the biases are to be.
        dtype: Their type.
        tile: Windows of a tile down and across.

    Returns:
        Tiles in raster order.
    """
    visible, outside = visible_keys(geometry, 'semantic', mask, device)
    if kernel is None:  # from anywhere to anywhere
        kernel, outside = 2 * max(geometry.semantic_hw), False
        tile = max(geometry.grid)
    start = (kernel - geometry.semantic_window) // 2
    tiles = []
    for down in _spans(geometry.hw[0], geometry.grid[0], geometry, kernel, tile):
        for across in _spans(geometry.hw[1], geometry.grid[1], geometry, kernel, tile):
            bias = None
            if outside or visible is not None or not (down.whole and across.whole):
                sees = [
                    span.sees(start, kernel, geometry.semantic_window, device)
                    for span in (down, across)
                ]
                cut = None if visible is None else visible[down.keys, across.keys]
                bias = _tile_bias(*sees, cut, kernel if outside else None, dtype)
                bias = _per_patch(bias, down.queries, across.queries, geometry.window_size)
            tiles.append(Tile(down.queries, across.queries, down.keys, across.keys, bias, outside))
    return tiles


def _tile_bias(
    down: Tensor, across: Tensor, visible: Tensor | None, kernel: int | None, dtype: torch.dtype
) -> Tensor:
    """Of each window of a tile: ``(windows down, windows across, keys)``.

    Where surroundings are seen (``kernel`` is their square's side), the last key stands for all of
    those n places at once: the bias log(n) weighs it n times.
    """
    sees = down[:, None, :, None] & across[None, :, None, :]
    bias = hide((sees if visible is None else sees & visible).flatten(2), dtype)
    if kernel is None:
        return bias
    places = kernel**2 - sees.flatten(2).sum(-1, keepdim=True)
    return torch.cat((bias, places.to(dtype).log()), -1)


def _per_patch(bias: Tensor, rows: slice, cols: slice, window_size: int) -> Tensor:
    """``(windows down, windows across, keys)`` -> ``(1, 1, patches, keys)``."""
    down = torch.arange(rows.stop - rows.start, device=bias.device) // window_size
    across = torch.arange(cols.stop - cols.start, device=bias.device) // window_size
    return bias[down[:, None], across].flatten(0, 1)[None, None]


def attend_tiles(
    q: Tensor, kv: Tensor, outside: Tensor | None, num_heads: int, tiles: list[Tile]
) -> Tensor:
    """Attention from patches to the semantic tokens around their windows.

    Args:
        q: ``(B, H, W, C)`` queries.
        kv: ``(B, s * K_down, s * K_across, 2C)`` keys and values, side by side.
        outside: ``(2C,)`` key and value of a padded token; None where no tile sees any.
        num_heads: h.
        tiles: Of :func:`plan_recovery`.

    Returns:
        ``(B, H, W, C)``.
    """
    rows: dict[int, list[Tensor]] = {}
    for tile in tiles:
        queries = q[:, tile.rows, tile.cols]
        keys = kv[:, tile.key_rows, tile.key_cols].flatten(1, 2)
        if tile.sees_outside:
            keys = torch.cat((keys, outside.to(keys.dtype).expand(len(keys), 1, -1)), 1)
        k, v = keys.chunk(2, -1)
        out = multi_head_attention(queries.flatten(1, 2), k, v, num_heads, tile.bias)
        rows.setdefault(tile.rows.start, []).append(out.unflatten(1, queries.shape[1:3]))
    return torch.cat([torch.cat(row, 2) for row in rows.values()], 1)
