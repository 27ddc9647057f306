"""The steps of a dumbbell unit as modules with one signature.

Source: STViT-R (arXiv:2303.08685), Sec. 3. Every step takes the patches, the semantic tokens (None
before they are made) and the stage's :class:`Plan`, and returns patches and semantic tokens.

Letters: B batch, N = H*W patches, S semantic tokens, C channels, h heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.checks import check_divides
from ..common.layers import DropPath, Mlp
from ..common.windows import merge_windows, partition_windows, window_grid
from .recovery import Tile, attend_tiles
from .semantic_tokens import (
    Geometry,
    Neighborhood,
    attend_crops,
    attend_neighborhood,
    pool_windows,
)
from .swin import NORM_EPS, Cut, SwinBlock

Step = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Plan:
    """What all units of a stage share for one size of the input.

    Args:
        geometry: Sizes.
        ignore_padding: Whether pooling leaves padding out.
        near: What the first generation step sees; of dense models.
        far: What the second one sees; of dense models.
        crops: What the first one sees; of classification models.
        tiles: What recovery sees.
        semantic_bias: ``(s * K_down, s * K_across)``, hides semantic tokens that pool padding
            only; None where there are none, or where they take part.
        cuts: How ``'local'`` and ``'shifted'`` steps cut the map, if there are any.
    """

    geometry: Geometry
    ignore_padding: bool
    near: Neighborhood | None
    far: Neighborhood | None
    crops: Tensor | None
    tiles: list[Tile]
    semantic_bias: Tensor | None
    cuts: dict[str, Cut] = field(default_factory=dict)

    @property
    def window_bias(self) -> Tensor | None:
        """``semantic_bias`` by window, ``(K, 1, 1, s * s)``."""
        if self.semantic_bias is None:
            return None
        side = self.geometry.semantic_window
        return partition_windows(self.semantic_bias[None, ..., None], side)[:, None, None, :, 0]


class CrossAttention(nn.Module):
    """Multi-head attention whose arrangement of queries and keys is an argument.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.

    Shape:
        - query: ``(..., C)`` and context: ``(..., C)``, normalised.
        - attend: called with the queries, keys and values side by side ``(..., 2C)``, those of
          ``padding``, and h; returns what the queries gather.
        - padding: ``(C,)``, what the norm makes of a padded token, or None.
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
        outside = None if padding is None else self.kv(padding)
        return self.proj(attend(self.q(query), self.kv(context), outside, self.num_heads))

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'


class SemanticBlock(nn.Module):
    """What the five steps have in common: one norm for queries and keys, scaled branches, an MLP.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        mlp_ratio: Hidden width of the MLP per channel.
        drop_path: Stochastic depth of both branches, in [0, 1).
        layer_scale: Initial value of the learned scale of both branches.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = WindowDropPath(drop_path)

    def attend(
        self, query: Tensor, context: Tensor, how: Callable[..., Tensor], padded: bool = False
    ) -> Tensor:
        """The scaled attention branch from ``query`` to ``context``, which are not yet normal."""
        normed = self.norm1(query)
        context = normed if context is query else self.norm1(context)
        # norm1 of zeros, with which maps are padded, is its bias
        padding = self.norm1.bias if padded else None
        return self.layer_scale_1 * self.attn(normed, context, how, padding)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Add the scaled MLP branch."""
        return x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))


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


class LocalStep(SwinBlock):
    """Patches attend to patches inside windows, which are not shifted."""

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        return super().forward(patches, *plan.cuts['local']), semantic


class ShiftedStep(SwinBlock):
    """Patches attend to patches inside shifted windows."""

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        return super().forward(patches, *plan.cuts['shifted']), semantic


class GenerateStep(SemanticBlock):
    """Pool each window to a few semantic tokens, which then attend to the patches around it.

    Args:
        dim: See :class:`SemanticBlock`.
        num_heads: See :class:`SemanticBlock`.
        residual: Keep the pooled tokens beside what they gather.
        mlp_ratio: See :class:`SemanticBlock`.
        drop_path: See :class:`SemanticBlock`.
        layer_scale: See :class:`SemanticBlock`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        residual: bool,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, drop_path, layer_scale)
        self.residual = residual

    def forward(self, patches: Tensor, semantic: Tensor | None, plan: Plan) -> Step:
        x = patches.unflatten(1, plan.geometry.hw)
        pooled = pool_windows(x, plan.geometry, plan.ignore_padding)
        if plan.near is not None:
            out = self.attend(pooled, x, partial(attend_neighborhood, near=plan.near), True)
        else:
            context = torch.cat((pooled.flatten(1, 2), patches), 1)
            how = partial(
                attend_crops, geometry=plan.geometry, index=plan.crops, bias=plan.window_bias
            )
            out = self.attend(pooled, context, how)
        if self.residual:
            out = pooled + self.drop_path(out, plan.geometry.semantic_window)
        return patches, self.feed_forward(out.flatten(1, 2))


class RefineStep(SemanticBlock):
    """Semantic tokens attend once more: to a wider neighbourhood, or to all patches and themselves.

    A global centre, a learned map, may be added to the queries.
    """

    def forward(
        self, patches: Tensor, semantic: Tensor, plan: Plan, center: Tensor | None = None
    ) -> Step:
        if plan.far is not None:
            tokens = semantic.unflatten(1, plan.geometry.semantic_hw)
            context = patches.unflatten(1, plan.geometry.hw)
            out = self.attend(tokens, context, partial(attend_neighborhood, near=plan.far), True)
            out = self.drop_path(out, plan.geometry.semantic_window).flatten(1, 2)
            return patches, self.feed_forward(semantic + out)
        context = torch.cat((semantic, patches), 1)
        if center is not None:
            semantic = semantic + resize_center(center, plan.geometry)
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
            bias = bias.repeat(len(semantic), 1, side * side, 1)
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
    """Patches attend to semantic tokens, which are used up."""

    def forward(self, patches: Tensor, semantic: Tensor, plan: Plan) -> Step:
        geometry = plan.geometry
        context = semantic.unflatten(1, geometry.semantic_hw)
        how = partial(attend_tiles, tiles=plan.tiles)
        padded = any(tile.sees_outside for tile in plan.tiles)
        out = self.attend(patches.unflatten(1, geometry.hw), context, how, padded)
        # dense models drop windows, classification models images, because they see no windows
        out = self.drop_path(out, geometry.window_size if plan.far is not None else None)
        return self.feed_forward(patches + out.flatten(1, 2)), None


def attend_all(
    q: Tensor, kv: Tensor, _outside: Tensor | None, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """Attention from ``(B, N, C)`` to ``(B, M, 2C)``; ``bias`` broadcasts to ``(B, h, N, M)``."""
    k, v = kv.chunk(2, -1)
    if bias is not None and bias.ndim == 1:
        bias = bias.expand(1, 1, q.shape[1], -1)
    return multi_head_attention(q, k, v, num_heads, bias)


def resize_center(center: Tensor, geometry: Geometry) -> Tensor:
    """A global centre ``(1, side * side, C)`` for the map of semantic tokens, ``(1, S, C)``."""
    side = round(center.shape[1] ** 0.5)
    if (side, side) == geometry.semantic_hw:
        return center
    grid = center.transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, geometry.semantic_hw, mode='bicubic', align_corners=False)
    return grid.flatten(2).transpose(1, 2)
