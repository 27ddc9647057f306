"""Draw what a backbone records over its input: regions of cells, and sheets of heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatch

import numpy as np
import torch
from torch import Tensor, nn

from ..common.checks import HW
from ..common.recorder import TokenRecorder, record_tokens
from ..common.records import Heats, Regions
from .drawing import (
    add_title,
    cells_to_pixels,
    contact_sheet,
    draw_box,
    draw_heat,
    draw_regions,
    region_borders,
    shrink,
)

MOST_MAPS = 100  # on one sheet; of more, evenly spread ones are drawn
SHEET_SIDE = 1920  # pixels that the maps of a sheet share
MAP_SIDE = 160  # least pixels of a map, so that its title can be read


@torch.no_grad()
def record_backbone(model: nn.Module, inputs: Tensor) -> TokenRecorder:
    """Run the backbone of a model once, in eval mode, and record it.

    Args:
        model: A backbone that records, or a model that has one as ``backbone``.
        inputs: ``(B, C, H, W)``, normalised, on the device of the model.

    Returns:
        The recorder.

    Raises:
        ValueError: If the backbone records nothing.
    """
    backbone = getattr(model, 'backbone', model)
    was_training = backbone.training
    backbone.eval()
    try:
        attention = getattr(backbone, 'pictures_need_attention', False)
        with record_tokens(backbone, attention) as recorder:
            backbone(inputs)
    finally:
        backbone.train(was_training)
    if not recorder.forwards or not recorder.records:
        raise ValueError(
            'pictures need a backbone that records tokens or clusters, got a '
            f'{type(backbone).__name__} that recorded nothing'
        )
    return recorder


def draw_maps(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    only: str = '*',
    maps: Sequence[int] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Draw everything that was recorded, for each image.

    Args:
        model: See :func:`record_backbone`, or a recorder that it returned for these inputs.
        inputs: ``(B, C, H, W)``, normalised, on the device of the model.
        images: The same B pictures, ``(h, w, 3)`` uint8 RGB, in any size of the same proportions.
        only: Pattern of the names to draw, e.g. ``'stage2*'``.
        maps: Numbers of the heat maps to draw; by default at most 100, evenly spread.

    Returns:
        For each image: name of a picture, e.g. ``'stage2'``, to ``(h', w', 3)`` uint8.

    Raises:
        ValueError: If images do not match the inputs, or nothing matches ``only`` or ``maps``.
    """
    input_hw = tuple(inputs.shape[2:])
    _check_images(len(inputs), input_hw, images)
    recorder = model if isinstance(model, TokenRecorder) else record_backbone(model, inputs)
    drawn = []
    for sample, image in enumerate(images):
        found = [picture for record in recorder.records for picture in record.pictures(sample)]
        chosen = [picture for picture in found if fnmatch(picture.name, only)]
        if not chosen:
            names = [picture.name for picture in found]
            raise ValueError(f'only must match one of {names}, got {only!r}')
        _check_maps(chosen, maps)
        drawn.append(
            {picture.name: draw_picture(picture, image, input_hw, maps) for picture in chosen}
        )
    return drawn


def draw_picture(
    picture: Regions | Heats, image: np.ndarray, input_hw: HW, maps: Sequence[int] | None = None
) -> np.ndarray:
    """Draw one picture of a record.

    Args:
        picture: Of an input of ``input_hw`` pixels.
        image: The same picture, ``(h, w, 3)`` uint8 RGB.
        input_hw: Height and width of the input.
        maps: See :func:`draw_maps`.

    Returns:
        ``(h', w', 3)`` uint8.
    """
    if isinstance(picture, Regions):
        return _draw_regions(image, picture, input_hw)
    return _draw_heats(image, picture, input_hw, maps)


def choose_maps(count: int, wanted: Sequence[int] | None) -> list[int]:
    """Numbers of the heat maps to draw, out of ``count``, in rising order."""
    if wanted is not None:
        return [number for number in sorted(set(wanted)) if number < count]
    shown = min(count, MOST_MAPS)
    return [(2 * i + 1) * count // (2 * shown) for i in range(shown)]


def _check_images(batch: int, input_hw: HW, images: Sequence[np.ndarray]) -> None:
    if len(images) != batch:
        raise ValueError(f'images must be one per sample, got {len(images)} for {batch} samples')
    height, width = input_hw
    for image in images:
        if abs(image.shape[0] * width - image.shape[1] * height) > max(image.shape[:2]):
            raise ValueError(
                f'images must have the proportions of the input, {height}x{width}, got '
                f'{image.shape[0]}x{image.shape[1]}'
            )


def _check_maps(pictures: Sequence[Regions | Heats], maps: Sequence[int] | None) -> None:
    if maps is None:
        return
    most = max((len(p.values) for p in pictures if isinstance(p, Heats)), default=0)
    wrong = sorted(number for number in maps if not 0 <= number < most)
    if wrong or not maps:
        raise ValueError(f'maps must be in [0, {most}), got {wrong or "none"}')


def _draw_regions(image: np.ndarray, picture: Regions, input_hw: HW) -> np.ndarray:
    cells = picture.labels.cpu().numpy()
    labels = cells_to_pixels(cells, input_hw, image.shape[:2], picture.stride)
    # no hues are needed if every cell is a region
    tint = 0.0 if len(np.unique(cells)) == cells.size else 0.5
    return add_title(draw_regions(image, labels, tint, lines=_line_opacity(labels)), picture.title)


def _line_opacity(labels: np.ndarray) -> float:
    """Lines are fainter the more of the picture they cover."""
    share = max(float(region_borders(labels).mean()), 1e-6)  # 4 / s for squares of side s
    return 0.6 * min(1.0, 4 / share / 32)


def _draw_heats(
    image: np.ndarray, picture: Heats, input_hw: HW, maps: Sequence[int] | None
) -> np.ndarray:
    """Each map from its own smallest to its own largest value, which its title gives."""
    values = picture.values.float().cpu().numpy()
    chosen = choose_maps(len(values), maps)
    if not chosen:  # the other pictures have more maps
        return add_title(image, f'{picture.title}: {len(values)} maps, none of the chosen')
    small = shrink(image, max(MAP_SIDE, round(SHEET_SIDE / math.ceil(len(chosen) ** 0.5))))

    def draw(number: int) -> np.ndarray:
        known = values[number][~np.isnan(values[number])]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        heat = cells_to_pixels(values[number], input_hw, small.shape[:2], picture.stride)
        drawn = draw_heat(small, np.nan_to_num(heat, nan=low), low, high)
        unknown = np.isnan(heat)[..., None]
        drawn = np.where(unknown, draw_heat(small, np.zeros_like(heat), opacity=0.0), drawn)
        if picture.boxes is not None:
            scales = [picture.stride * p / s for p, s in zip(small.shape, input_hw)] * 2
            box = tuple(edge * s for edge, s in zip(picture.boxes[number].tolist(), scales))
            drawn = draw_box(drawn, box)
        return add_title(drawn, f'{number}: {low:.3g} to {high:.3g}')

    return add_title(contact_sheet([draw(number) for number in chosen]), picture.title)
