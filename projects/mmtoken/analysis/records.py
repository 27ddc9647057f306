"""What every drawing of recorded tokens needs: a record of the inputs, sizes, line widths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.recorder import TokenRecorder, record_tokens
from .drawing import region_borders

# What backbones record that can be drawn: token sets, soft clusters, units of semantic tokens
KINDS = ('tokens', 'assign', 'units')
SHEET_SIDE = 1920  # heat maps share about this many pixels, so fewer of them are larger
HEAT_SIDE = 160  # but none is smaller than this, where its number could not be read


@torch.no_grad()
def record_backbone(model: nn.Module, inputs: Tensor) -> TokenRecorder:
    """Run the backbone of a model in eval mode, recording its tokens or clusters.

    Attention is recorded where it says what semantic tokens gather; elsewhere it would only take
    memory.

    Args:
        model: A backbone of this suite, or a model that has one as ``backbone``.
        inputs: ``(B, 3, H, W)``, normalised, where the model is.

    Returns:
        The recorder.

    Raises:
        ValueError: It records neither token sets, clusters nor semantic tokens, so there is
            nothing to draw.
    """
    backbone = getattr(model, 'backbone', model)
    was_training = backbone.training
    backbone.eval()
    try:
        with record_tokens(backbone, attention=False) as recorder:
            backbone(inputs)
        kind = recorded_kind(recorder)
        if kind == 'units':
            with record_tokens(backbone) as recorder:
                backbone(inputs)
            recorder.attention.clear()  # the units have what is drawn of it
    finally:
        backbone.train(was_training)
    if kind is None:
        raise ValueError(
            'maps need a backbone that records token sets, clusters or semantic tokens, got '
            f'{type(backbone).__name__} without any; use one that clusters (num_clusters '
            'above 0, where it has that argument)'
        )
    return recorder


def recorded_kind(recorder: TokenRecorder) -> str | None:
    """``'tokens'``, ``'assign'`` or ``'units'``: what the stages have; None for nothing."""
    stages = recorder.stages.values() if recorder.forwards else ()
    return next((kind for kind in KINDS if any(kind in stage for stage in stages)), None)


def as_recorder(model: nn.Module | TokenRecorder, inputs: Tensor) -> TokenRecorder:
    """What was recorded of the model; it runs unless ``model`` is a record already."""
    return model if isinstance(model, TokenRecorder) else record_backbone(model, inputs)


def check_images(inputs: Tensor, images: Sequence[np.ndarray]) -> None:
    """Raise unless there is one image per sample, in the proportions of the inputs."""
    if len(images) != len(inputs):
        raise ValueError(
            f'draw needs one image per sample, got {len(images)} images for {len(inputs)} samples'
        )
    height, width = inputs.shape[2:]
    for image in images:
        if abs(image.shape[0] * width - image.shape[1] * height) > max(image.shape[:2]):
            raise ValueError(
                f'an image must show what the model sees, in the proportions of the input '
                f'{height}x{width}, got {image.shape[0]}x{image.shape[1]}; crop or resize it'
            )


def grid_stride(input_hw: HW, grid_hw: HW) -> int:
    """Side of a patch in pixels of the input: the smallest power of two that covers it."""
    return max(2 ** math.ceil(math.log2(side / count)) for side, count in zip(input_hw, grid_hw))


def line_opacity(labels: np.ndarray) -> float:
    """Fainter the more pieces the regions are in, or lines would be all there is to see."""
    share = max(float(region_borders(labels).mean()), 1e-6)  # 4 / s for squares of side s
    return 0.6 * min(1.0, 4 / share / 32)
