"""For ``make bench``: PaCaHead alone, and in the formulation of the paper.

Source: PaCa-ViT (arXiv:2203.11987), Sec. 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.layers import to_map, to_tokens
from . import reference
from .mmseg_head import PaCaHead


class ResizeFirstPooling(nn.Module):
    """One token per class from the resized and concatenated maps."""

    def forward(self, levels: Sequence[Tensor], scores: Tensor) -> Tensor:
        assign = scores.flatten(2).softmax(-1)
        return assign @ to_tokens(reference.resize_and_concatenate(levels))


class ExplicitAttention(nn.Module):
    """Attention to class tokens whose weights are kept."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (to_tokens(q) @ k.transpose(1, 2)).softmax(-1)
        return to_map(weights @ v, tuple(q.shape[2:]))


class ResizeFirstHead(PaCaHead):
    """PaCaHead in the formulation of the paper."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.pool, self.attend = ResizeFirstPooling(), ExplicitAttention()

    @staticmethod
    def _project(levels: list[Tensor], *modules: nn.Module) -> list[Tensor]:
        features = reference.resize_and_concatenate(levels)
        return [module(features) for module in modules]


class HeadOnMaps(nn.Module):
    """A head for 150 classes on the maps of PaCa-ViT small.

    Args:
        resize_first: Use the formulation of the paper.

    Shape:
        - x: ``(B, 512, H, W)``, the finest map and more channels; the other maps are its pixels.
        - returns: ``(B, 150, H, W)``.
    """

    image_channels = 512

    def __init__(self, resize_first: bool = False) -> None:
        super().__init__()
        self.widths = (96, 192, 320, 512)
        head = ResizeFirstHead if resize_first else PaCaHead
        self.head = head(self.widths, num_classes=150, norm_cfg=dict(type='BN'))

    def forward(self, x: Tensor) -> Tensor:
        steps = [2**level for level in range(len(self.widths))]
        maps = [x[:, :width, ::n, ::n].contiguous() for width, n in zip(self.widths, steps)]
        if torch.is_grad_enabled():
            maps = [one.requires_grad_() for one in maps]
        return self.head(maps)


MODELS.register_module(module=HeadOnMaps)
