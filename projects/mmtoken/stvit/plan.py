"""Semantic tokens: a few per window, pooled from its patches, then gathering what is around it.

Source: STViT (arXiv:2303.08685), Sec. 3 (semantic token generation). Keys and values are projected
once per patch and cut into overlapping neighbourhoods afterwards; outside the map stands one
constant, the projection of a padded patch.

Letters: B batch, H and W sides of the map of patches, K windows in raster order, w side of a window
(7), s side of its semantic tokens (3), S semantic tokens in raster order, C channels, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.checks import HW
from ..common.recompute import recompute
from ..common.windows import merge_windows, pad_to_windows, partition_windows, window_grid

# What hides padding from attention; see visible_keys
MASKS = ('released', 'exact', 'none')


@dataclass(frozen=True)
class Geometry:
    """Sizes of a stage with semantic tokens; no tensors.

    Args:
        hw: H and W.
        window_size: w.
        semantic_window: s.
    """

    hw: HW
    window_size: int = 7
    semantic_window: int = 3

    @property
    def grid(self) -> HW:
        """Windows down and across; K is their product."""
        return window_grid(self.hw, self.window_size)

    @property
    def padded_hw(self) -> HW:
        """Sides of the map with its last windows filled up."""
        return self.grid[0] * self.window_size, self.grid[1] * self.window_size

    @property
    def padding(self) -> HW:
        """Rows and columns that fill up the last windows."""
        return self.padded_hw[0] - self.hw[0], self.padded_hw[1] - self.hw[1]

    @property
    def semantic_hw(self) -> HW:
        """Sides of the map of semantic tokens; S is their product."""
        return self.grid[0] * self.semantic_window, self.grid[1] * self.semantic_window


def describe(geometry: Geometry) -> dict[str, HW]:
    """The sizes that a recorder is told of every unit."""
    names = ('hw', 'padded_hw', 'semantic_hw')
    return {name: getattr(geometry, name) for name in names}


def pool_windows(x: Tensor, geometry: Geometry, ignore_padding: bool = False) -> Tensor:
    """First semantic tokens: the maxima over s x s overlapping parts of each window.

    Args:
        x: ``(B, H, W, C)`` patches.
        geometry: Sizes.
        ignore_padding: Leave padding out of the maxima; else it takes part as zeros, as released.
            Tokens of nothing but padding are zero either way.

    Returns:
        ``(B, s * K_down, s * K_across, C)``.
    """
    size = geometry.window_size
    padded = pad_to_windows(x, size, -torch.inf if ignore_padding else 0.0)
    windows = partition_windows(padded, size).transpose(1, 2).unflatten(2, (size, size))
    pooled = F.adaptive_max_pool2d(windows, geometry.semantic_window)  # B*K C s s
    if ignore_padding and any(geometry.padding):
        pooled = pooled.masked_fill(pooled == -torch.inf, 0.0)
    tokens = pooled.flatten(2).transpose(1, 2)
    return merge_windows(tokens, geometry.semantic_window, geometry.semantic_hw)


def real_semantic_tokens(geometry: Geometry, device: torch.device) -> Tensor:
    """Which semantic tokens pool at least one patch, ``(s * K_down, s * K_across)`` booleans."""
    w, s = geometry.window_size, geometry.semantic_window

    def first_patches(count: int) -> Tensor:
        starts = torch.arange(s, device=device) * w // s
        return (torch.arange(count, device=device)[:, None] * w + starts).flatten()

    down, across = (first_patches(count) for count in geometry.grid)
    return (down < geometry.hw[0])[:, None] & (across < geometry.hw[1])


def visible_keys(
    geometry: Geometry, of: str, mask: str, device: torch.device
) -> tuple[Tensor | None, bool]:
    """Which keys may be attended to, on the padded map and outside it.

    ``'exact'`` hides all padding. ``'released'`` hides what the released code hides: with Pb padded
    rows and Pr padded columns, the rows from h - Pb on of the columns from w - Pr on, and all that
    is outside the map, where h x w is the map of keys; a count of zero stands for the whole side,
    and where the whole map would be hidden, nothing is. Pb and Pr count patches even where the
    keys are semantic tokens. ``'none'`` hides nothing.

    Args:
        geometry: Sizes.
        of: ``'patches'`` or ``'semantic'``: what the keys are.
        mask: One of ``MASKS``.
        device: Where the answer is to be.

    Returns:
        ``(h, w)`` booleans, None where all are visible; and whether the surroundings are.
    """
    hw = geometry.padded_hw if of == 'patches' else geometry.semantic_hw
    if mask == 'none':
        return None, True
    if mask == 'exact':
        if not any(geometry.padding):
            return None, False
        if of == 'semantic':
            return real_semantic_tokens(geometry, device), False
        return ~_corner(hw, geometry.hw, device, any_side=True), False
    first = tuple(max(side - pad, 0) if pad else 0 for side, pad in zip(hw, geometry.padding))
    if first == (0, 0):
        return None, True
    return ~_corner(hw, first, device), False


def _corner(hw: HW, first: HW, device: torch.device, any_side: bool = False) -> Tensor:
    """Rows from ``first[0]`` on and (or, with ``any_side``) columns from ``first[1]`` on."""
    down = (torch.arange(hw[0], device=device) >= first[0])[:, None]
    across = torch.arange(hw[1], device=device) >= first[1]
    return down | across if any_side else down & across


def hide(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Bias on logits: 0 where ``visible``, minus infinity elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
        ~visible, -torch.inf
    )


def gather_neighborhoods(x: Tensor, outside: Tensor, kernel: int, window_size: int) -> Tensor:
    """Cut overlapping squares around the windows of a map.

    Args:
        x: ``(B, H, W, C)``.
        outside: ``(C,)``, what stands outside the map.
        kernel: Side of a square, at least w; it reaches ``(kernel - w) // 2`` beyond its window
            above and on the left, the rest below and on the right.
        window_size: w.

    Returns:
        ``(B * K, kernel * kernel, C)``.
    """
    height, width = x.shape[1:3]
    start = (kernel - window_size) // 2
    sides = (
        count * window_size + kernel - window_size
        for count in window_grid((height, width), window_size)
    )
    canvas = outside.to(x.dtype).expand(len(x), *sides, -1).clone()
    canvas[:, start : start + height, start : start + width] = x
    squares = canvas.unfold(1, kernel, window_size).unfold(2, kernel, window_size)
    # from B rows columns C kernel kernel
    return squares.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(0, 2)


@dataclass(frozen=True)
class Neighborhood:
    """The patches that the semantic tokens of a window attend to.

    Args:
        geometry: Sizes.
        kernel: Side of the square around the window, in patches.
        bias: ``(K, 1, 1, kernel * kernel)`` on the logits, None for none.
    """

    geometry: Geometry
    kernel: int
    bias: Tensor | None = None


def plan_neighborhood(
    geometry: Geometry, kernel: int, mask: str, device: torch.device, dtype: torch.dtype
) -> Neighborhood:
    """What every unit of a stage shares: the bias that hides padding; see :func:`visible_keys`."""
    visible, outside = visible_keys(geometry, 'patches', mask, device)
    if outside:
        return Neighborhood(geometry, kernel)
    if visible is None:
        visible = torch.ones(geometry.padded_hw, dtype=torch.bool, device=device)
    around = torch.zeros(1, dtype=torch.bool, device=device)
    squares = gather_neighborhoods(visible[None, ..., None], around, kernel, geometry.window_size)
    return Neighborhood(geometry, kernel, hide(squares[:, None, None, :, 0], dtype))


def attend_neighborhood(
    q: Tensor, kv: Tensor, outside: Tensor, num_heads: int, near: Neighborhood
) -> Tensor:
    """Attention from the semantic tokens of each window to the patches around it.

    Args:
        q: ``(B, s * K_down, s * K_across, C)`` queries.
        kv: ``(B, H, W, 2C)`` keys and values, side by side.
        outside: ``(2C,)`` key and value of a padded patch.
        num_heads: h.
        near: Of :func:`plan_neighborhood`.

    Returns:
        As ``q``.
    """
    # the squares repeat each patch 4 or 9 times
    return recompute(_attend_squares, q, kv, outside, num_heads, near)


def _attend_squares(
    q: Tensor, kv: Tensor, outside: Tensor, num_heads: int, near: Neighborhood
) -> Tensor:
    side, hw = near.geometry.semantic_window, tuple(q.shape[1:3])
    squares = gather_neighborhoods(kv, outside, near.kernel, near.geometry.window_size)
    k, v = squares.chunk(2, -1)
    bias = None if near.bias is None else near.bias.repeat(len(q), 1, side * side, 1)
    out = multi_head_attention(partition_windows(q, side), k, v, num_heads, bias)
    return merge_windows(out, side, hw)


def crop_index(geometry: Geometry, reach: int, device: torch.device) -> Tensor:
    """Patches of the square around each window, moved inwards where it would leave the map.

    Args:
        geometry: Sizes.
        reach: Rows and columns by which the square is larger than the window.
        device: Where the index is to be.

    Returns:
        ``(K, n)`` with ``n = min(w + reach, H) * min(w + reach, W)``, numbers of patches in raster
        order. At H = W = 14 and ``reach`` 3 these are the four 10x10 corners, as released.
    """

    def places(side: int, count: int) -> Tensor:
        size = min(geometry.window_size + reach, side)
        starts = torch.arange(count, device=device) * geometry.window_size - reach // 2
        return starts.clamp(0, side - size)[:, None] + torch.arange(size, device=device)

    down, across = (places(side, count) for side, count in zip(geometry.hw, geometry.grid))
    index = down[:, None, :, None] * geometry.hw[1] + across[None, :, None, :]
    return index.flatten(2).flatten(0, 1)


def attend_crops(
    q: Tensor,
    kv: Tensor,
    _outside: Tensor | None,
    num_heads: int,
    geometry: Geometry,
    index: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """Attention from the semantic tokens of each window to themselves and a crop of the map.

    Args:
        q: ``(B, s * K_down, s * K_across, C)`` queries.
        kv: ``(B, S + N, 2C)`` keys and values of the semantic tokens, then of the patches, each
            in raster order.
        _outside: Unused: crops do not leave the map.
        num_heads: h.
        geometry: Sizes.
        index: ``(K, n)`` of :func:`crop_index`.
        bias: ``(K, 1, 1, s * s)`` on the logits of the semantic tokens, None for none.

    Returns:
        As ``q``.
    """
    side, hw = geometry.semantic_window, tuple(q.shape[1:3])
    num_semantic = hw[0] * hw[1]
    own = partition_windows(kv[:, :num_semantic].unflatten(1, hw), side)  # B*K s*s 2C
    crops = kv[:, num_semantic:].index_select(1, index.flatten()).unflatten(1, index.shape)
    k, v = torch.cat((own, crops.flatten(0, 1)), 1).chunk(2, -1)
    if bias is not None:
        bias = F.pad(bias, (0, index.shape[1])).repeat(len(q), 1, side * side, 1)
    out = multi_head_attention(partition_windows(q, side), k, v, num_heads, bias)
    return merge_windows(out, side, hw)
