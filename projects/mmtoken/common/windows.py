"""Cut maps into windows and put them together again: the only code that knows about remainders.

Maps are channels-last here. Letters: B batch, H and W cells, C channels, w side of a window, K
windows of a map in raster order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .checks import HW


def window_padding(hw: HW, window_size: int) -> HW:
    """Rows and columns that a map lacks at the bottom and on the right for whole windows."""
    return -hw[0] % window_size, -hw[1] % window_size


def window_grid(hw: HW, window_size: int) -> HW:
    """Windows down and across a map, the padded ones included."""
    return -(-hw[0] // window_size), -(-hw[1] // window_size)


def pad_to_windows(x: Tensor, window_size: int, value: float = 0.0) -> Tensor:
    """``(B, H, W, C)`` -> whole windows, padded with ``value`` at the bottom and on the right."""
    rows, cols = window_padding(x.shape[1:3], window_size)
    return F.pad(x, (0, 0, 0, cols, 0, rows), value=value) if rows or cols else x


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """``(B, H, W, C)`` of whole windows -> ``(B * K, w * w, C)``."""
    grid = window_grid(x.shape[1:3], window_size)
    x = x.unflatten(2, (grid[1], window_size)).unflatten(1, (grid[0], window_size))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # from B rows w columns w C


def merge_windows(windows: Tensor, window_size: int, hw: HW) -> Tensor:
    """``(B * K, w * w, C)`` -> ``(B, H, W, C)``, the padding cut off; ``hw`` is H and W.

    The inverse of :func:`partition_windows` after :func:`pad_to_windows`.
    """
    grid = window_grid(hw, window_size)
    x = windows.unflatten(0, (-1, *grid)).unflatten(3, (window_size, window_size))
    x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # from B rows columns w w C
    return x[:, : hw[0], : hw[1]]
