"""Patches of an image, or of a feature map of a CNN, and their absolute positions.

Source: ViT (arXiv:2010.11929), Sec. 3.1, "Hybrid Architecture" included. Letters: B batch, P side
of a patch, g side of the grid that positions are stored for, N = h * w patches, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..common.backbone import Backbone
from ..common.checks import HW, check_bool, check_int, check_range
from ..common.layers import to_tokens

PROBE = 256  # side in pixels of the image that a stem is probed with


class PatchEmbed(BaseModule):
    """Project patches of an image, or of the map of a stem, with a strided convolution.

    The image is padded with zeros at the bottom and on the right to multiples of ``stride``.

    Args:
        in_channels: Channels of the image.
        dim: D.
        patch_size: P; in pixels, with a stem in cells of its map. None for 16 pixels or 1 cell.
        bias: Whether the convolution has a bias.
        stem: Config of a registered backbone that returns one map; see :func:`build_stem`.

    Shape:
        - image: ``(B, in_channels, H, W)``.
        - returns: ``(B, N, D)`` in raster order, and ``(h, w)``, where h is
          ``ceil(H / stride)``.
    """

    def __init__(
        self, in_channels: int, dim: int, patch_size: int | None, bias: bool, stem: dict | None
    ) -> None:
        super().__init__()
        if patch_size is None:
            patch_size = 16 if stem is None else 1
        check_int('patch_size', patch_size)
        self.backbone, channels, stride = None, in_channels, 1
        if stem is not None:
            self.backbone, channels, stride = build_stem(stem, in_channels)
        self.proj = nn.Conv2d(channels, dim, patch_size, patch_size, bias=bias)
        self.stride = stride * patch_size

    def forward(self, image: Tensor) -> tuple[Tensor, HW]:
        rows, cols = (-side % self.stride for side in image.shape[2:])
        x = F.pad(image, (0, cols, 0, rows))
        hw = tuple(side // self.stride for side in x.shape[2:])
        if self.backbone is not None:
            (x,) = as_tuple(self.backbone(x))
        x = self.proj(x)
        if tuple(x.shape[2:]) != hw:
            raise ValueError(
                f'the stem must return maps of ceil(side / stride), got {tuple(x.shape[2:])} '
                f'patches instead of {hw} for {tuple(image.shape[2:])} pixels'
            )
        return to_tokens(x), hw


def build_stem(stem: dict, in_channels: int) -> tuple[nn.Module, int, int]:
    """Build a backbone that returns one map.

    Args:
        stem: Config of a registered backbone.
        in_channels: Channels of the image.

    Returns:
        The backbone, the channels of its map and its stride.

    Raises:
        ValueError: If ``stem`` is not a config, or the backbone returns several maps.
    """
    if not isinstance(stem, dict) or 'type' not in stem:
        raise ValueError(f'stem must be the config of a registered backbone, got {stem!r}')
    try:
        model = MODELS.build(stem)
    except KeyError as error:
        raise ValueError(f'stem must be a registered backbone, got {stem!r}: {error}') from None
    if isinstance(model, Backbone):
        shapes = list(zip(model.out_channels, model.out_strides))
    else:
        shapes = [(x.shape[1], PROBE // x.shape[2]) for x in _probe(model, in_channels)]
    if len(shapes) != 1:
        raise ValueError(
            f'the stem must return one map, got {len(shapes)} from {stem["type"]!r}; choose one '
            'with its out_indices'
        )
    return model, *shapes[0]


def _probe(model: nn.Module, in_channels: int) -> tuple[Tensor, ...]:
    """Outputs for one image on the meta device: shapes without arithmetic."""
    state = {k: v.to('meta') for k, v in (*model.named_parameters(), *model.named_buffers())}
    was_training = model.training
    image = torch.empty(1, in_channels, PROBE, PROBE, device='meta')
    with torch.no_grad():
        model.eval()  # returns nothing in some hosts
        maps = functional_call(model, state, image)
    model.train(was_training)
    return as_tuple(maps)


def as_tuple(maps: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of a backbone, some of which return a single map as it is."""
    return (maps,) if isinstance(maps, Tensor) else tuple(maps)


def patches_per_side(name: str, pixels: int | None, stride: int) -> int:
    """Patches per side of the images that the argument ``name`` is for; 0 if it is None."""
    if pixels is None:
        return 0
    check_int(name, pixels)
    if pixels % stride:
        raise ValueError(
            f'{name} must be a multiple of patch_size, times the stride of a stem, got '
            f'{name}={pixels} and patches of {stride} pixels'
        )
    return pixels // stride


def check_resizing(pos_antialias: bool, pos_offset: float) -> None:
    """Raise unless both arguments of the rule by which positions are resized are valid."""
    check_bool('pos_antialias', pos_antialias)
    check_range('pos_offset', pos_offset, 0, 1)


def resize_positions(
    pos_embed: Tensor, side: int, hw: HW, antialias: bool, offset: float
) -> Tensor:
    """Resize positions to a grid of patches by bicubic interpolation, in at least float32.

    Args:
        pos_embed: ``(1, g * g, D)`` in raster order.
        side: g.
        hw: h and w.
        antialias: Of the interpolation; also changes the kernel where the grid grows.
        offset: Added to h and w in the scale, which shifts the samples (DINOv2: 0.1).

    Returns:
        ``(1, N, D)``; the input if the grid is already of this size.
    """
    if hw == (side, side):
        return pos_embed
    grid = pos_embed.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    size = dict(size=hw)
    if offset:
        size = dict(scale_factor=tuple((new + offset) / side for new in hw))
    grid = F.interpolate(grid, mode='bicubic', antialias=antialias, **size)
    return to_tokens(grid).to(pos_embed.dtype)
