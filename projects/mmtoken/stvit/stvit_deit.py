"""STViT on DeiT: 16 semantic tokens instead of 196 patches (arXiv:2303.08685, Sec. 3).

The authors released neither code nor weights.

Known: four layers on 14x14 patches, two generation steps, six layers on 4x4 tokens, whose mean goes
to the classifier, no class token; this gives the published 0.522, 1.907 and 7.263 G multiply-adds.
Known from a snippet by the author: the pooling of 4x4 patches to a token (:class:`SpatialPooling`).
Left out, because its form is unknown: a learned offset of these windows.
Guessed: queries, keys and branches as in the released code of STViT-R (one norm for queries and
keys, layer scale, MLP), the position embedding of the patches, and the parameter names.

Letters: B batch, N = H*W patches, S semantic tokens, C channels, h heads, w side of a window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.backbone import Backbone, resolve_arch
from ..common.checks import HW, check_bool, check_divides, check_int, check_length
from ..common.layers import DropPath, Mlp, drop_path_rates, to_map, to_tokens
from ..common.recorder import is_recording_attention, last_attention, record
from .attend import attend_all
from .maps import SemanticUnit
from .plan import Geometry, Plan, describe
from .steps import RefineStep, SemanticBlock, resize_center
from .swin import MLP_RATIO, init_swin_weights

ARCHS = {
    'tiny': dict(embed_dims=192, num_heads=3, depths=(4, 8)),
    'small': dict(embed_dims=384, num_heads=6, depths=(4, 8)),
    'base': dict(embed_dims=768, num_heads=12, depths=(4, 8)),
}
NORM_EPS = 1e-6
PATCH = 16
TRAINED_GRID = 14  # patches per side at 224x224
WINDOW = 4  # side in patches of the window that becomes one token
PADDING = -100.0  # added to the scores of padding


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.

    Shape:
        - x: ``(B, N, C)``, returned in the same shape.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(multi_head_attention(*self.qkv(x).chunk(3, -1), self.num_heads))

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}'


class TransformerBlock(nn.Module):
    """Pre-norm transformer block of ViT (arXiv:2010.11929), with the names of its releases.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        drop_path: Stochastic depth of both branches, in [0, 1).

    Shape:
        - x: ``(B, N, C)``, returned in the same shape.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SpatialPooling(nn.Module):
    """Pool each window to one token: a mean of its patches with learned weights.

    The map is padded to whole windows with zeros on all sides; the weight of padding is negligible.

    Args:
        dim: C.

    Shape:
        - x: ``(B, N, C)``; hw: sides of the map.
        - returns: ``(B, S, C)`` with ``S = ceil(H / w) * ceil(W / w)``.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.act = nn.GELU()
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, x: Tensor, hw: HW) -> Tensor:
        windows = self._windows(x.transpose(1, 2).unflatten(2, hw))  # B*S C w w
        inside = self._windows(x.new_ones(1, 1, *hw)).flatten(2)  # S 1 w*w
        features = self.dwconv(windows).flatten(2).transpose(1, 2)
        logits = self.score(self.act(self.norm(features))).transpose(1, 2)  # B*S 1 w*w
        logits = logits + PADDING * (1 - inside).repeat(x.shape[0], 1, 1)
        pooled = logits.softmax(-1) @ windows.flatten(2).transpose(1, 2)  # B*S 1 C
        return pooled.squeeze(1).unflatten(0, (x.shape[0], inside.shape[0]))

    def _windows(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B * S, C, w, w)``, padding split between opposite sides."""
        rows, cols = -x.shape[2] % WINDOW, -x.shape[3] % WINDOW
        x = F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        x = x.unflatten(3, (-1, WINDOW)).unflatten(2, (-1, WINDOW))  # B C rows w columns w
        return x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


class PooledGenerateStep(SemanticBlock):
    """Pooled tokens attend to all patches."""

    def forward(self, patches: Tensor, pooled: Tensor) -> Tensor:
        out = self.attend(pooled, patches, attend_all)
        return self.feed_forward(pooled + self.drop_path(out))


@MODELS.register_module()
class STViTDeiT(Backbone):
    """Semantic-Token Vision Transformer on DeiT.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict with ``embed_dims``, ``num_heads`` and
            ``depths``: the number of layers on patches, and of those from the generation steps on,
            at least two.
        use_global_center: Add a learned map to the queries of the second generation step.
        in_channels: Channels of the image.
        out_indices: 0: the patches, 1: the semantic tokens; later stages are not built. Name only
            stages that the head reads: each has a norm, and distributed training stops at a
            parameter without a gradient.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        frozen_stages: See :class:`~mmtoken.common.backbone.Backbone`; there are two stages.
        norm_eval: See :class:`~mmtoken.common.backbone.Backbone`; there are no batch norms.
        with_cp: See :class:`~mmtoken.common.backbone.Backbone`.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - image: ``(B, in_channels, H, W)``, at least 16x16, padded with zeros to multiples of 16;
          position embeddings are resized.
        - returns: a tuple of maps ``(B, C, ceil(H / s), ceil(W / s))`` with strides s of
          ``out_strides``, 16 and 64; 4x4 tokens at 224x224.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    pictures_need_attention = True

    def __init__(
        self,
        arch: str | dict = 'small',
        use_global_center: bool = True,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1,),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(2, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        spec = resolve_arch(arch, ARCHS, tuple(ARCHS['tiny']))
        dim, heads = spec['embed_dims'], spec['num_heads']
        check_int('in_channels', in_channels)
        check_bool('use_global_center', use_global_center)
        check_divides('num_heads', heads, 'embed_dims', dim)
        check_length('depths', spec['depths'], 2, 'stage')
        depths = tuple(spec['depths'])
        for depth, least in zip(depths, (1, 2)):  # the second has two generation steps
            check_int('depths', depth, least)
        self.in_channels = in_channels
        self.min_side, self.min_side_reason = PATCH, 'one patch'
        self.out_channels = self.select((dim, dim))
        self.out_strides = self.select((PATCH, PATCH * WINDOW))
        base, later = drop_path_rates(drop_path_rate, depths)

        self.patch_embed = nn.Conv2d(in_channels, dim, PATCH, PATCH)
        position = torch.empty(1, TRAINED_GRID**2, dim)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(position, std=0.02))
        self.stage_modules.append(['patch_embed', 'pos_embed'])
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, p) for p in base)
        self._add_norm(0, dim)
        self.stage_modules.append(self.stage_names(1))
        self.pool = self.global_center = None
        self.semantic_blocks = nn.ModuleList()
        if max(self.out_indices) == 1:
            self.pool = SpatialPooling(dim)
            kinds = (PooledGenerateStep, RefineStep, *[TransformerBlock] * (depths[1] - 2))
            self.semantic_blocks += [kind(dim, heads, p) for kind, p in zip(kinds, later)]
            if use_global_center:
                center = torch.empty(1, (-(-TRAINED_GRID // WINDOW)) ** 2, dim)
                self.global_center = nn.Parameter(nn.init.trunc_normal_(center, std=0.02))
            self._add_norm(1, dim)
            self.stage_modules.append(self.stage_names(2))
        self.depths = depths[: len(self.stage_modules) - 1]
        self.apply(init_swin_weights)
        self.finish()

    def _add_norm(self, stage: int, dim: int) -> None:
        if stage in self.out_indices:
            self.add_module(f'norm{stage}', nn.LayerNorm(dim, eps=NORM_EPS))

    def stage_names(self, stage: int) -> list[str]:
        """Names of the modules of a stage, counted from 1."""
        own = ['blocks'] if stage == 1 else ['pool', 'semantic_blocks', 'global_center']
        return [*own, f'norm{stage - 1}']

    def run_stages(self, image: Tensor) -> list[tuple[Tensor, HW]]:
        """Return patches and semantic tokens, and the sides of their maps."""
        image = F.pad(image, (0, -image.shape[3] % PATCH, 0, -image.shape[2] % PATCH))
        grid = self.patch_embed(image)
        hw = tuple(grid.shape[2:])
        x = to_tokens(grid) + self._positions(hw)
        for block in self.blocks:
            x = self.run_block(block, x)
        return [(x, hw), self._semantic(x, hw)] if len(self.semantic_blocks) else [(x, hw)]

    def output(self, stage: int, value: tuple[Tensor, HW]) -> Tensor:
        """Normalise ``(B, N, C)`` and return it as a contiguous map."""
        x, hw = value
        return to_map(getattr(self, f'norm{stage}')(x), hw).contiguous()

    def _semantic(self, patches: Tensor, hw: HW) -> tuple[Tensor, HW]:
        """Generate semantic tokens, which then attend to each other."""
        generate, refine, *rest = self.semantic_blocks
        geometry = Geometry(hw, WINDOW, 1)
        x, weights = self.run_block(self.pool, patches, hw), {}
        x = self.run_block(generate, patches, x)
        if is_recording_attention():
            weights['generate'] = last_attention().mean(1)
        _, x = self.run_block(refine, patches, x, Plan(geometry), self.global_center)
        if is_recording_attention():
            weights['refine'] = last_attention().mean(1)[..., -patches.shape[1] :]
        for block in rest:
            x = self.run_block(block, x)
        record(SemanticUnit(2, 0, **describe(geometry), semantic_tokens=x, **weights))
        return x, geometry.semantic_hw

    def _positions(self, hw: HW) -> Tensor:
        """Position embeddings for a map of ``hw``, ``(1, N, C)``."""
        return resize_center(self.pos_embed, hw)
