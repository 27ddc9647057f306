"""Self-attention of a plain vision transformer: global or in windows, and how it sees positions.

Sources: ViT (arXiv:2010.11929); windows and relative positions: ViTDet (arXiv:2203.16527).
Letters: B batch, T tokens of which N = h * w are patches, D channels, n heads, d = D / n, K windows
of w * w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import attend, merge_heads, split_heads
from ..common.checks import HW, check_int
from ..common.windows import WindowOrder, join_windows
from .relative_position import append_positions
from .rope import Rotation, rotate


@dataclass(frozen=True)
class Grid:
    """Everything that all blocks share for one size of the map.

    Args:
        hw: h and w.
        rotation: Of the patches, in a model with rotary positions.
        order: Of the patches in windows, in a model with windows.
    """

    hw: HW
    rotation: Rotation | None = None
    order: WindowOrder | None = None


class KeysWithoutBias(nn.Linear):
    """Project to queries, keys and values; the part of the bias for the keys is not used.

    Rotated keys would move by a bias, and the models were trained without one.
    """

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat((q, torch.zeros_like(k), v)))


class Attention(nn.Module):
    """Multi-head self-attention.

    In windows with relative positions, positions outside the map are keys like all others, as in
    ViTDet: zeros before the projection, hence its bias. Without relative positions they are masked.

    Args:
        dim: D.
        num_heads: n; divides ``dim``.
        norm: Module on the D channels before the last projection.
        has_key_bias: Whether keys have a bias.
        window_size: w, or 0 for global attention.
        rel_pos_side: S of the tables of relative positions, or 0 for none.

    Shape:
        - x: ``(B, T, D)``, returned in the same shape; in windows T is N.
        - grid: what all blocks share.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        norm: nn.Module,
        has_key_bias: bool = True,
        window_size: int = 0,
        rel_pos_side: int = 0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = (nn.Linear if has_key_bias else KeysWithoutBias)(dim, 3 * dim)
        self.norm = norm
        self.proj = nn.Linear(dim, dim)
        self.has_rel_pos = rel_pos_side > 0
        if self.has_rel_pos:
            shape = (2 * rel_pos_side - 1, dim // num_heads)
            self.rel_pos_h = nn.Parameter(torch.zeros(shape))
            self.rel_pos_w = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if grid.rotation is not None:
            q, k = (rotate(each, grid.rotation, self.num_heads) for each in (q, k))
        if self.window_size:
            padding = self.qkv(x.new_zeros(1, x.shape[-1])).chunk(3, -1)
            x = self._attend_in_windows((q, k, v), padding, grid.order)
        else:
            x = self._attend(q, k, v, grid.hw)
        return self.proj(self.norm(x))

    def _attend_in_windows(
        self, qkv: tuple[Tensor, ...], padding: tuple[Tensor, ...], order: WindowOrder
    ) -> Tensor:
        """Three ``(B, N, D)`` and the value of padding in each -> ``(B, N, D)``."""
        q, k, v = (cut_windows(x, order, value) for x, value in zip(qkv, padding))
        mask = None
        if len(order.padding) and not self.has_rel_pos:
            hidden = q.new_zeros(len(order.patches)).index_fill(0, order.padding, -torch.inf)
            mask = hidden.view(-1, 1, 1, q.shape[1]).repeat(qkv[0].shape[0], 1, 1, 1)
        x = self._attend(q, k, v, (order.window_size, order.window_size), mask)
        count = len(order.patches) // order.window_size**2
        return join_windows(x.unflatten(0, (-1, count)), order)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, hw: HW, mask: Tensor | None = None
    ) -> Tensor:
        """Attention of tokens, or of positions of a map of ``hw``, ``(B, T, D)``."""
        q, k, v = (split_heads(x, self.num_heads) for x in (q, k, v))
        scale = None
        if self.has_rel_pos:
            q, k = append_positions(q, k, (self.rel_pos_h, self.rel_pos_w), hw)
            scale = 1.0
        return merge_heads(attend(q, k, v, mask, scale=scale))

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, window_size={self.window_size}'


def cut_windows(x: Tensor, order: WindowOrder, padding: Tensor) -> Tensor:
    """``(B, N, D)`` -> ``(B * K, w * w, D)``, with ``padding``, ``(1, D)``, outside the map."""
    windows = x.index_select(1, order.patches)
    if len(order.padding):
        windows[:, order.padding] = padding
    return windows.unflatten(1, (-1, order.window_size**2)).flatten(0, 1)


def check_windows(indexes: Sequence[int], window_size: int, depth: int) -> tuple[int, ...]:
    """Return the indices of blocks with windows; raise unless they are different and exist."""
    check_int('window_size', window_size)
    indexes = tuple(indexes) if isinstance(indexes, Sequence) else (indexes,)
    for index in indexes:
        check_int('window_block_indexes', index, 0)
    if len(set(indexes)) < len(indexes) or max(indexes, default=0) >= depth:
        raise ValueError(
            f'window_block_indexes must be different blocks in [0, {depth - 1}], got {indexes}'
        )
    return indexes


def check_windows_fit(window_size: int, *sides: int) -> None:
    """Raise if windows are larger than the maps that a model was made for; 0 is no map."""
    side = max(sides)
    if side and window_size > side:
        raise ValueError(
            f'window_size must be at most the side of the map, got {window_size=} for '
            f'{side}x{side} patches; make it smaller, or leave window_block_indexes empty for '
            'global attention'
        )
