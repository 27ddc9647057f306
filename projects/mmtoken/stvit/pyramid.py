"""What STViT-R and STViT on Swin share: a convolutional stem and four stages.

Source: Swin (arXiv:2103.14030), Sec. 3.1; the stem is that of STViT (arXiv:2303.08685).
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..common.backbone import Backbone
from ..common.checks import HW, check_divides, check_length
from ..common.layers import drop_path_rates
from .swin import NORM_EPS, ConvStem

NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)
SEMANTIC_STAGE = 2  # counted from 0


class Pyramid(Backbone):
    """Base of both: sizes, the stem, and ``layers`` that a subclass adds one by one.

    ``stage_arguments`` has what each stage to be built is built with, whatever it is.

    Args:
        spec: ``embed_dims`` of the first stage, doubled in each; ``depths`` and ``num_heads``.
        mlp_ratio: Hidden width of the MLPs per channel.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        out_indices: See :class:`~mmtoken.common.backbone.Backbone`, as all that follow.
        frozen_stages: Stages that keep their values.
        norm_eval: Keep the batch norms of the stem in eval mode.
        with_cp: Recompute activations.
        init_cfg: Initial values.

    Raises:
        ValueError: Arguments out of range; the message says how to mend it.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        mlp_ratio: float,
        in_channels: int,
        drop_path_rate: float,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(NUM_STAGES, out_indices, frozen_stages, norm_eval, with_cp, init_cfg)
        dims, depths = stage_dims(spec['embed_dims']), tuple(spec['depths'])
        heads = tuple(spec['num_heads'])
        check_length('depths', depths, NUM_STAGES, 'stage')
        check_length('num_heads', heads, NUM_STAGES, 'stage')
        for num_heads, dim in zip(heads, dims):
            check_divides('num_heads', num_heads, 'embed_dims', dim)
        self.in_channels = in_channels
        self.out_channels = self.select(dims)
        self.out_strides = self.select(STRIDES)
        self.depths = depths[: max(self.out_indices) + 1]
        self.stage_arguments = [
            dict(dim=dim, num_heads=num_heads, drop_paths=rates, mlp_ratio=mlp_ratio)
            for dim, num_heads, rates in zip(dims, heads, drop_path_rates(drop_path_rate, depths))
        ][: len(self.depths)]
        self.patch_embed = ConvStem(in_channels, dims[0])
        self.stage_modules.append(['patch_embed'])
        self.layers = nn.ModuleList()

    def add_stage(self, layer: nn.Module, norm: str) -> None:
        """Append a stage, which has ``blocks`` and ``downsample``; ``norm`` names that of its map.

        Args:
            layer: The stage.
            norm: Attribute; there is none where the stage is not returned.
        """
        stage = len(self.layers)
        self.layers.append(layer)
        names = [f'layers.{stage}.blocks', f'layers.{stage}.semantic_token2']
        if stage > 0:
            names.insert(0, f'layers.{stage - 1}.downsample')
        if stage in self.out_indices:
            dim = self.stage_arguments[stage]['dim']
            self.add_module(norm, nn.LayerNorm(dim, eps=NORM_EPS))
            names.append(norm)
        self.stage_modules.append(names)

    def normed_map(self, x: Tensor, hw: HW, norm: str) -> Tensor:
        """``(B, H * W, C)`` -> ``(B, C, H, W)``, normalised by the norm of that name."""
        return getattr(self, norm)(x).transpose(1, 2).unflatten(2, hw)


def init_swin_weights(module: nn.Module) -> None:
    """Initial values of Swin, for ``model.apply``: truncated normal, std 0.02, and bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def stage_dims(embed_dims: int) -> tuple[int, ...]:
    """Widths of the stages, doubled in each; raise unless that of the first is one even number."""
    if not isinstance(embed_dims, numbers.Integral) or embed_dims < 2 or embed_dims % 2:
        raise ValueError(
            'embed_dims must be one even number, the width of the first stage (doubled in each, '
            f'halved in the stem), got {embed_dims!r}; 96 and 128 are published'
        )
    return tuple(embed_dims * 2**stage for stage in range(NUM_STAGES))
