"""What STViT keeps of Swin: shifted-window blocks and patch merging, under a convolutional stem.

Source: Swin (arXiv:2103.14030), Sec. 3; the stem is that of STViT (arXiv:2303.08685). Letters: B
batch, N = H*W patches in raster order, C channels, h heads, w side of a window, K windows.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.checks import HW, check_divides
from ..common.layers import DropPath, Mlp
from ..common.memory import map_chunks
from ..common.windows import (
    WindowOrder,
    cut_windows,
    join_windows,
    pad_to_windows,
    partition_windows,
    window_order,
    window_padding,
)

NORM_EPS = 1e-5
HIDDEN = -100.0  # added to the logits between regions that only a shift brought together
# Where patches stand in windows, and the mask of shift_mask where they were shifted
Cut = tuple[WindowOrder, Tensor | None]


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with BatchNorm and Hardswish; no norm after them.

    Args:
        in_channels: Channels of the image.
        dim: C.

    Shape:
        - image: ``(B, in_channels, H, W)``, padded with zeros to multiples of 4.
        - returns: ``(B, N, C)`` and ``(ceil(H / 4), ceil(W / 4))``.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            _conv_norm(in_channels, dim // 2),
            nn.Hardswish(),
            _conv_norm(dim // 2, dim),
            nn.Hardswish(),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, HW]:
        rows, cols = window_padding(image.shape[2:], 4)
        if rows or cols:
            image = F.pad(image, (0, cols, 0, rows))
        x = self.proj(image)
        return x.flatten(2).transpose(1, 2).contiguous(), tuple(x.shape[2:])


def _conv_norm(in_dim: int, out_dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(OrderedDict(c=conv, bn=nn.BatchNorm2d(out_dim)))


class PatchMerging(nn.Module):
    """Concatenate 2x2 patches, then LayerNorm and a linear layer: half the sides, twice C.

    Args:
        dim: C.

    Shape:
        - x: ``(B, N, C)``; hw: the map, padded with zeros to even sides.
        - returns: ``(B, ceil(H / 2) * ceil(W / 2), 2C)`` and its sides.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim, eps=NORM_EPS)

    def forward(self, x: Tensor, hw: HW) -> tuple[Tensor, HW]:
        x = pad_to_windows(x.unflatten(1, hw), 2)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B H/2 row W/2 column C
        hw = (x.shape[1], x.shape[3])
        # the row is the fast index: (0, 0), (1, 0), (0, 1), (1, 1)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
        return self.reduction(self.norm(x)), hw


def relative_position_index(window_size: int) -> Tensor:
    """Row of the bias table for each pair of patches of a window, ``(w * w, w * w)``."""
    side = torch.arange(window_size)
    places = torch.stack(torch.meshgrid(side, side, indexing='ij')).flatten(1)  # 2 w*w
    down, across = places[:, :, None] - places[:, None] + window_size - 1
    return down * (2 * window_size - 1) + across


def shift_mask(
    hw: HW, window_size: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Bias that keeps apart what a cyclic shift brought into one window.

    Args:
        hw: Sides of the map before padding.
        window_size: w.
        shift: Rows and columns that the padded map was rolled up and to the left.
        device: Where the mask is to be.
        dtype: Its type.

    Returns:
        ``(K, 1, w * w, w * w)``: 0 within a region, -100 between two.
    """

    def regions(side: int) -> Tensor:
        side += -side % window_size
        place = torch.arange(side, device=device)
        return (place >= side - window_size).long() + (place >= side - shift)

    region = 3 * regions(hw[0])[:, None] + regions(hw[1])
    region = partition_windows(region[None, :, :, None], window_size)[..., 0]  # K w*w
    apart = region[:, :, None] != region[:, None]
    return torch.zeros(apart.shape, dtype=dtype, device=device).masked_fill(apart, HIDDEN)[:, None]


def plan_windows(
    hw: HW, window_size: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Cut:
    """How a map of ``hw`` is cut after a shift, and the mask that goes with it."""
    mask = shift_mask(hw, window_size, shift, device, dtype) if shift else None
    return window_order(hw, window_size, shift, device), mask


class WindowAttention(nn.Module):
    """Self-attention inside (shifted) windows with a learned bias per relative position.

    The map is padded with zeros to whole windows after the norm, as released.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        window_size: w.

    Shape:
        - x: ``(B, N, C)``, normalised.
        - order: How the map is cut.
        - mask: ``(K, 1, w * w, w * w)`` of :func:`shift_mask`, or None.
        - returns: ``(B, N, C)``.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        self.num_heads = num_heads
        self.window_size = window_size
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        # part of the released files
        self.register_buffer('relative_position_index', relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, order: WindowOrder, mask: Tensor | None = None) -> Tensor:
        masks = () if mask is None else (mask[None],)
        attend = partial(self._attend, bias=self._bias())
        windows = map_chunks(attend, cut_windows(x, order), *masks)
        return self.proj(join_windows(windows, order))

    def _bias(self) -> Tensor:
        """Bias of relative positions, ``(1, h, w * w, w * w)``."""
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return rows.unflatten(0, self.relative_position_index.shape).permute(2, 0, 1)[None]

    def _attend(self, windows: Tensor, mask: Tensor | None = None, *, bias: Tensor) -> Tensor:
        """Attention in ``(B, K, w * w, C)`` windows, with ``(1, K, 1, w * w, w * w)`` of masks."""
        if mask is not None:
            bias = (bias + mask[0]).repeat(len(windows), 1, 1, 1)
        q, k, v = self.qkv(windows.flatten(0, 1)).chunk(3, -1)
        out = multi_head_attention(q, k, v, self.num_heads, bias)
        return out.unflatten(0, windows.shape[:2])

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, window_size={self.window_size}'


class SwinBlock(nn.Module):
    """Transformer block with attention in windows.

    Args:
        dim: C.
        num_heads: See :class:`WindowAttention`.
        window_size: See :class:`WindowAttention`.
        mlp_ratio: Hidden width of the MLP per channel.
        drop_path: Stochastic depth of both branches, in [0, 1).

    Shape:
        - x: ``(B, N, C)``; order and mask: see :class:`WindowAttention`.
        - returns: ``(B, N, C)``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, order: WindowOrder, mask: Tensor | None = None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), order, mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))
