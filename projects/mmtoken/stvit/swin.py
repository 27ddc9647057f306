"""Swin as STViT uses it: convolutional stem, shifted-window blocks, patch merging, four stages.

Source: Swin (arXiv:2103.14030), Sec. 3; the stem is that of STViT (arXiv:2303.08685). Letters: B
batch, N = H*W patches in raster order, C channels, h heads, w side of a window, K windows.
"""

from __future__ import annotations

import numbers
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.attention import multi_head_attention
from ..common.backbone import Backbone
from ..common.checks import HW, check_divides, check_int, check_ints, check_length
from ..common.layers import DropPath, Mlp, drop_path_rates, to_map, to_tokens
from ..common.memory import map_chunks
from ..common.strict_load import State
from ..common.windows import cut_windows, join_windows, pad_to_windows, window_padding
from .plan import Windows

NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)
SEMANTIC_STAGE = 2  # counted from 0
NORM_EPS = 1e-5
MLP_RATIO = 4


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
        # torch.jit.trace gives sizes as tensors; plans take integers
        hw = (int(x.shape[2]), int(x.shape[3]))
        return to_tokens(x).contiguous(), hw


def _conv_norm(in_dim: int, out_dim: int) -> nn.Sequential:
    conv = nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(OrderedDict(c=conv, bn=nn.BatchNorm2d(out_dim)))


class PatchMerging(nn.Module):
    """Concatenate 2x2 patches, then LayerNorm and a linear layer: half the sides, twice C.

    Args:
        dim: C.

    Shape:
        - x: ``(B, N, C)``; hw: sides of the map, which is padded with zeros to even sides.
        - returns: ``(B, ceil(H / 2) * ceil(W / 2), 2C)`` and its sides.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim, eps=NORM_EPS)

    def forward(self, x: Tensor, hw: HW) -> tuple[Tensor, HW]:
        x = pad_to_windows(x.unflatten(1, hw), 2)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B H/2 row W/2 column C
        # the row is the fast index: (0, 0), (1, 0), (0, 1), (1, 1)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
        return self.reduction(self.norm(x)), ((hw[0] + 1) // 2, (hw[1] + 1) // 2)


def relative_position_index(window_size: int) -> Tensor:
    """Return the row of the bias table for each pair of patches of a window, ``(w * w, w * w)``."""
    side = torch.arange(window_size)
    places = torch.stack(torch.meshgrid(side, side, indexing='ij')).flatten(1)  # 2 w*w
    down, across = places[:, :, None] - places[:, None] + window_size - 1
    return down * (2 * window_size - 1) + across


class WindowAttention(nn.Module):
    """Self-attention inside (shifted) windows with a learned bias per relative position.

    The map is padded with zeros to whole windows after the norm, as released.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        window_size: w.

    Shape:
        - x: ``(B, N, C)``, normalised; windows: partition of its map.
        - returns: ``(B, N, C)``.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        check_divides('num_heads', num_heads, 'dim', dim)
        self.num_heads = num_heads
        self.window_size = window_size
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        # released checkpoints contain it
        self.register_buffer('relative_position_index', relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        masks = () if windows.mask is None else (windows.mask[None],)
        attend = partial(self._attend, bias=self._bias())
        out = map_chunks(attend, cut_windows(x, windows.order), *masks)
        return self.proj(join_windows(out, windows.order))

    def _bias(self) -> Tensor:
        """Bias of relative positions, ``(1, h, w * w, w * w)``."""
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return rows.unflatten(0, self.relative_position_index.shape).permute(2, 0, 1)[None]

    def _attend(self, windows: Tensor, mask: Tensor | None = None, *, bias: Tensor) -> Tensor:
        """Attend in ``(B, K, w * w, C)`` windows with masks ``(1, K, 1, w * w, w * w)``."""
        if mask is not None:
            bias = (bias + mask[0]).repeat(windows.shape[0], 1, 1, 1)
        q, k, v = self.qkv(windows.flatten(0, 1)).chunk(3, -1)
        out = multi_head_attention(q, k, v, self.num_heads, bias)
        return out.unflatten(0, windows.shape[:2])

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, window_size={self.window_size}'


class SwinBlock(nn.Module):
    """Pre-norm transformer block with attention in windows.

    Args:
        dim: C.
        num_heads: h; divides ``dim``.
        drop_path: Stochastic depth of both branches, in [0, 1).
        window_size: w.

    Shape:
        - x: ``(B, N, C)``; windows: partition of its map.
        - returns: ``(B, N, C)``.
    """

    def __init__(
        self, dim: int, num_heads: int, drop_path: float = 0.0, window_size: int = 7
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, MLP_RATIO * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), windows))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Pyramid(Backbone):
    """Base of STViT-R and STViT on Swin: the stem and four stages, the ``layers``.

    A subclass adds the stages; ``stage_arguments`` has the arguments common to all kinds.

    Args:
        spec: ``embed_dims`` of the first stage, doubled in each; ``depths`` and ``num_heads``.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        out_indices: See :class:`~mmtoken.common.backbone.Backbone`, as for the others.
        frozen_stages: Stages that are not trained.
        norm_eval: Keep the batch norms of the stem in eval mode.
        with_cp: Recompute activations.
        init_cfg: Initial values.

    Raises:
        ValueError: If an argument is invalid.
    """

    pictures_need_attention = True
    last_grid = NUM_STAGES - 1  # index of the last stage on a grid of patches

    def __init__(
        self,
        spec: Mapping[str, Any],
        in_channels: int,
        drop_path_rate: float,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(NUM_STAGES, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        check_int('in_channels', in_channels)
        check_ints('depths', spec['depths'], NUM_STAGES, 'stage', low=0)
        check_length('num_heads', spec['num_heads'], NUM_STAGES, 'stage')
        dims, depths = stage_dims(spec['embed_dims']), tuple(spec['depths'])
        heads = tuple(spec['num_heads'])
        for num_heads, dim in zip(heads, dims):
            check_divides('num_heads', num_heads, 'embed_dims', dim)
        self.in_channels = in_channels
        self.out_channels = self.select(dims)
        self.out_strides = self.select(STRIDES)
        self.depths = depths[: max(self.out_indices) + 1]
        self.min_side = STRIDES[min(len(self.depths) - 1, self.last_grid)]
        self.min_side_reason = f'one patch of the stage with stride {self.min_side}'
        self.stage_arguments = [
            dict(dim=dim, num_heads=num_heads, drop_paths=rates, with_cp=with_cp)
            for dim, num_heads, rates in zip(dims, heads, drop_path_rates(drop_path_rate, depths))
        ][: len(self.depths)]
        self.patch_embed = ConvStem(in_channels, dims[0])
        self.stage_modules.append(['patch_embed'])
        self.layers = nn.ModuleList()

    def add_stage(self, layer: nn.Module) -> None:
        """Append a stage, with ``blocks`` and ``downsample``, and the norm of its map."""
        stage = len(self.layers)
        self.layers.append(layer)
        if stage in self.out_indices:
            dim = self.stage_arguments[stage]['dim']
            self.add_module(self.norm_name(stage), nn.LayerNorm(dim, eps=NORM_EPS))
        self.stage_modules.append(self.stage_names(stage + 1))

    def norm_name(self, index: int) -> str:
        """Name of the norm of the stage at ``index``, counted from 0; it exists if returned."""
        return f'norm{index}'

    def stage_names(self, stage: int) -> list[str]:
        """Names of the modules of a stage, counted from 1."""
        index = stage - 1
        names = [f'layers.{index}.blocks', f'layers.{index}.semantic_token2', self.norm_name(index)]
        return names if index == 0 else [f'layers.{index - 1}.downsample', *names]

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop stages that are not built and norms of stages that are not returned."""
        kept, resized = super().prepare_state_dict(state)
        unused = {self.norm_name(i) for i in range(NUM_STAGES) if i not in self.out_indices}
        return {k: v for k, v in kept.items() if k.split('.')[0] not in unused}, resized

    def run_stages(self, image: Tensor) -> list[tuple[Tensor, HW]]:
        """Return the tokens of each stage and the sides of their map."""
        x, hw = self.patch_embed(image)
        stages, transition = [], None
        for layer in self.layers:
            x, hw = layer(x, hw, transition)
            stages.append((x, layer.map_size(hw)))
            transition = layer.downsample
        return stages

    def output(self, stage: int, value: tuple[Tensor, HW]) -> Tensor:
        """Normalise ``(B, N, C)`` and return it as a contiguous map."""
        x, hw = value
        return to_map(getattr(self, self.norm_name(stage))(x), hw).contiguous()


def init_swin_weights(module: nn.Module) -> None:
    """Initialise as Swin does, for ``model.apply``: truncated normal, std 0.02, and bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def stage_dims(embed_dims: int) -> tuple[int, ...]:
    """Return the widths of the stages, each twice the one before; the first must be even."""
    if not isinstance(embed_dims, numbers.Integral) or embed_dims < 2 or embed_dims % 2:
        raise ValueError(
            'embed_dims must be one even number, the width of the first stage (doubled in each, '
            f'halved in the stem), got {embed_dims!r}; 96 and 128 are published'
        )
    return tuple(embed_dims * 2**stage for stage in range(NUM_STAGES))
