"""The steps of a dumbbell unit, as modules with one signature.

Every step takes the patches ``(B, N, C)``, the semantic tokens ``(B, S, C)`` (None before they are
generated) and the plan of the stage, and returns patches and semantic tokens.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Letters as in plan.py; h heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import HW, check_divides
from ..common.layers import DropPath, Mlp
from ..common.windows import merge_windows, pad_to_windows, partition_windows, window_grid
from .attend import attend_all, attend_crops, attend_neighborhood, attend_tiles
from .plan import Geometry, Plan
from .swin import MLP_RATIO, NORM_EPS, SwinBlock

LAYER_SCALE = 1e-5
Step = tuple[Tensor, Tensor | None]


def pool_windows(x: Tensor, geometry: Geometry, ignore_padding: bool = False) -> Tensor:
    """Pool the initial semantic tokens: the maximum of each of s x s overlapping parts of a window.

    Args:
        x: ``(B, H, W, C)`` patches.
        geometry: Sizes.
        ignore_padding: Leave padding out; otherwise it counts as zeros, as released. A part
            that is all padding gives zero either way.

    Returns:
        ``(B, s * K_down, s * K_across, C)``.
    """
    size = geometry.window_size
    lowest = torch.finfo(x.dtype).min  # not -inf, which max pooling of onnxruntime does not return
    padded = pad_to_windows(x, size, lowest if ignore_padding else 0.0)
    windows = partition_windows(padded, size).transpose(1, 2).unflatten(2, (size, size))
    pooled = max_of_parts(windows, geometry.semantic_window)  # B*K C s s
    if ignore_padding and any(geometry.padding):
        pooled = pooled.masked_fill(pooled == lowest, 0.0)
    tokens = pooled.flatten(2).transpose(1, 2)
    return merge_windows(tokens, geometry.semantic_window, geometry.semantic_hw)


def max_of_parts(windows: Tensor, parts: int) -> Tensor:
    """``F.adaptive_max_pool2d``, which ONNX does not have, as plain pooling where they are equal.

    Part i spans ``[floor(i * w / s), ceil((i + 1) * w / s))``. Without padding, the s parts of
    plain pooling start at multiples of the stride, and the last one ends at w.
    """
    side = windows.shape[-1]
    spans = [(i * side // parts, -(-(i + 1) * side // parts)) for i in range(parts)]
    stride = spans[-1][0] // max(parts - 1, 1) or 1
    size = side - (parts - 1) * stride
    if spans == [(i * stride, i * stride + size) for i in range(parts)]:
        return F.max_pool2d(windows, size, stride)
    return F.adaptive_max_pool2d(windows, parts)


class CrossAttention(nn.Module):
    """Multi-head attention that leaves the arrangement of queries and keys to a function.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.

    Shape:
        - query: ``(..., C)`` and context: ``(..., C)``, normalised.
        - attend: a function of :mod:`~mmtoken.stvit.attend`.
        - padding: ``(C,)``, a padded token after the norm, or None.
        - returns: as query.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Tensor,
        context: Tensor,
        attend: Callable[..., Tensor],
        padding: Tensor | None = None,
    ) -> Tensor:
        # a row, because quantised linear layers take no vectors
        outside = None if padding is None else self.kv(torch.stack([padding]))[0]
        return self.proj(attend(self.q(query), self.kv(context), outside, self.num_heads))

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'


class WindowDropPath(DropPath):
    """Stochastic depth per image, or per window of a map, as the dense models were trained.

    Shape:
        - x: ``(B, ...)``, with ``window_size`` ``(B, H, W, C)``.
    """

    def forward(self, x: Tensor, window_size: int | None = None) -> Tensor:
        if window_size is None or not self.training or self.drop_path == 0.0:
            return super().forward(x)
        height, width = x.shape[1:3]
        grid = window_grid((height, width), window_size)
        kept = super().forward(x.new_ones(x.shape[0] * grid[0] * grid[1])).view(-1, *grid)
        kept = kept.repeat_interleave(window_size, 1).repeat_interleave(window_size, 2)
        return x * kept[:, :height, :width, None]


class SemanticBlock(nn.Module):
    """Base of the semantic steps: one norm for queries and keys, scaled branches, an MLP.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        drop_path: Stochastic depth of both branches, in [0, 1).
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.drop_path = WindowDropPath(drop_path)

    def attend(
        self, query: Tensor, context: Tensor, attend: Callable[..., Tensor], padded: bool = False
    ) -> Tensor:
        """Return the scaled attention branch from ``query`` to ``context``, both not normalised."""
        normed = self.norm1(query)
        context = normed if context is query else self.norm1(context)
        # norm1 maps the zeros of padding to its bias
        padding = self.norm1.bias if padded else None
        return self.layer_scale_1 * self.attn(normed, context, attend, padding)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the scaled MLP branch."""
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


class LocalStep(SwinBlock):
    """Patches attend to the patches of their window."""

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        return super().forward(patches, plan.windows['local']), semantic


class ShiftedStep(SwinBlock):
    """Patches attend to the patches of their shifted window."""

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        return super().forward(patches, plan.windows['shifted']), semantic


class GenerateStep(SemanticBlock):
    """First generation step: pool each window, then attend to the patches around it.

    Args:
        dim: See :class:`SemanticBlock`.
        num_heads: See :class:`SemanticBlock`.
        drop_path: See :class:`SemanticBlock`.
        residual: Add the pooled tokens to the attention branch.
    """

    def __init__(
        self, dim: int, num_heads: int, drop_path: float = 0.0, residual: bool = True
    ) -> None:
        super().__init__(dim, num_heads, drop_path)
        self.residual = residual

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        geometry = plan.geometry
        x = patches.unflatten(1, geometry.hw)
        pooled = pool_windows(x, geometry, plan.ignore_padding)
        if plan.near is not None:
            out = self.attend(pooled, x, partial(attend_neighborhood, near=plan.near), padded=True)
        else:
            context = torch.cat((pooled.flatten(1, 2), patches), 1)
            crops = dict(geometry=geometry, index=plan.crops, bias=plan.window_bias)
            out = self.attend(pooled, context, partial(attend_crops, **crops))
        if self.residual:
            out = pooled + self.drop_path(out, geometry.semantic_window)
        return patches, self.feed_forward(out.flatten(1, 2))


class RefineStep(SemanticBlock):
    """Second generation step: attend to a wider neighbourhood, or to all patches and tokens.

    A global centre, a learned map, may be added to the queries.
    """

    def forward(
        self, patches: Tensor, semantic: Tensor, plan: Plan, center: Tensor | None = None
    ) -> Step:
        if plan.far is not None:
            tokens = semantic.unflatten(1, plan.geometry.semantic_hw)
            context = patches.unflatten(1, plan.geometry.hw)
            far = partial(attend_neighborhood, near=plan.far)
            out = self.attend(tokens, context, far, padded=True)
            out = self.drop_path(out, plan.geometry.semantic_window).flatten(1, 2)
            return patches, self.feed_forward(semantic + out)
        context = torch.cat((semantic, patches), 1)
        if center is not None:
            semantic = semantic + resize_center(center, plan.geometry.semantic_hw)
        bias = plan.semantic_bias
        if bias is not None:
            bias = F.pad(bias.flatten(), (0, patches.shape[1]))
        out = self.attend(semantic, context, partial(attend_all, bias=bias))
        return patches, self.feed_forward(semantic + self.drop_path(out))


class LocalSemanticStep(SemanticBlock):
    """Semantic tokens attend to those of their own window."""

    def forward(self, patches: Tensor, semantic: Tensor, plan: Plan) -> Step:
        side, hw = plan.geometry.semantic_window, plan.geometry.semantic_hw
        windows = partition_windows(semantic.unflatten(1, hw), side)
        bias = plan.window_bias
        if bias is not None:
            bias = bias.repeat(semantic.shape[0], 1, side * side, 1)
        out = self.attend(windows, windows, partial(attend_all, bias=bias))
        out = merge_windows(out, side, hw).flatten(1, 2)
        return patches, self.feed_forward(semantic + self.drop_path(out))


class GlobalSemanticStep(SemanticBlock):
    """Semantic tokens attend to all semantic tokens."""

    def forward(self, patches: Tensor, semantic: Tensor, plan: Plan) -> Step:
        bias = None if plan.semantic_bias is None else plan.semantic_bias.flatten()
        out = self.attend(semantic, semantic, partial(attend_all, bias=bias))
        return patches, self.feed_forward(semantic + self.drop_path(out))


class RecoverStep(SemanticBlock):
    """Recovery: patches attend to semantic tokens, which end here."""

    def forward(self, patches: Tensor, semantic: Tensor, plan: Plan) -> Step:
        geometry = plan.geometry
        context = semantic.unflatten(1, geometry.semantic_hw)
        padded = any(tile.sees_outside for tile in plan.tiles)
        tiles = partial(attend_tiles, tiles=plan.tiles)
        out = self.attend(patches.unflatten(1, geometry.hw), context, tiles, padded)
        # as trained: dense models drop windows, classification models images
        out = self.drop_path(out, geometry.window_size if plan.far is not None else None)
        return self.feed_forward(patches + out.flatten(1, 2)), None


def resize_center(center: Tensor, hw: HW) -> Tensor:
    """Resize a learned square map ``(1, side * side, C)`` to ``hw``, ``(1, H * W, C)``."""
    side = math.isqrt(int(center.shape[1]))
    if (side, side) == hw:
        return center
    grid = center.transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, hw, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2)
