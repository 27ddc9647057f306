"""Partition maps into windows and merge them again, padding included.

Maps are channels-last here. Letters: B batch, H and W cells, C channels, w side of a window, K
windows of a map in raster order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import HW


def window_padding(hw: HW, window_size: int) -> HW:
    """Rows and columns of padding at the bottom and on the right for whole windows."""
    return -hw[0] % window_size, -hw[1] % window_size


def window_grid(hw: HW, window_size: int) -> HW:
    """Number of windows down and across a map, padded ones included."""
    return -(-hw[0] // window_size), -(-hw[1] // window_size)


def pad_to_windows(x: Tensor, window_size: int, value: float = 0.0) -> Tensor:
    """Pad ``(B, H, W, C)`` to whole windows with ``value``, at the bottom and on the right."""
    rows, cols = window_padding(x.shape[1:3], window_size)
    return F.pad(x, (0, 0, 0, cols, 0, rows), value=value) if rows or cols else x


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """``(B, H, W, C)`` of whole windows -> ``(B * K, w * w, C)``."""
    grid = window_grid(x.shape[1:3], window_size)
    x = x.unflatten(2, (grid[1], window_size)).unflatten(1, (grid[0], window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # from B rows w columns w C


def merge_windows(windows: Tensor, window_size: int, hw: HW) -> Tensor:
    """``(B * K, w * w, C)`` -> ``(B, H, W, C)`` without padding; ``hw`` is H and W.

    The inverse of :func:`pad_to_windows` and :func:`partition_windows`.
    """
    grid = window_grid(hw, window_size)
    x = windows.unflatten(0, (-1, *grid)).unflatten(3, (window_size, window_size))
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # from B rows columns w w C
    return x[:, : hw[0], : hw[1]]


@dataclass(frozen=True)
class WindowOrder:
    """Positions of the patches of a map that is padded, rolled and partitioned into windows.

    One index replaces padding, rolling and partitioning, each of which copies the map. N = H * W
    patches are in raster order.

    Args:
        window_size: w.
        patches: ``(K * w * w,)``, the patch at each position; arbitrary in the padding.
        padding: ``(P,)``, positions of the padding.
        places: ``(N,)``, the position of each patch.
    """

    window_size: int
    patches: Tensor
    padding: Tensor
    places: Tensor


def window_order(hw: HW, window_size: int, shift: int, device: torch.device) -> WindowOrder:
    """Order of a map of ``hw``, rolled up and to the left by ``shift`` after padding."""
    (height, width), grid = hw, window_grid(hw, window_size)
    rows, cols = (torch.arange(count * window_size, device=device) for count in grid)
    # not (rows - shift) % len(rows): inductor knows no bounds of a remainder of negative numbers
    down, across = rows.roll(shift), cols.roll(shift)
    window = (down // window_size * grid[1])[:, None] + across // window_size
    inside = (down % window_size * window_size)[:, None] + across % window_size
    places = window * window_size**2 + inside
    real = places[:height, :width].flatten()
    padding = torch.cat((places[height:].flatten(), places[:height, width:].flatten()))
    patches = torch.zeros(places.numel(), dtype=torch.long, device=device)
    patches[real] = torch.arange(len(real), device=device)
    return WindowOrder(window_size, patches, padding, real)


def cut_windows(x: Tensor, order: WindowOrder) -> Tensor:
    """``(B, N, C)`` -> ``(B, K, w * w, C)``, padded with zeros."""
    windows = x.index_select(1, order.patches)
    if len(order.padding):
        windows.index_fill_(1, order.padding, 0.0)
    return windows.unflatten(1, (-1, order.window_size**2))


def join_windows(windows: Tensor, order: WindowOrder) -> Tensor:
    """``(B, K, w * w, C)`` -> ``(B, N, C)``, the inverse of :func:`cut_windows`."""
    return windows.flatten(1, 2).index_select(1, order.places)
