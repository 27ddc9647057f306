"""Semantic tokens drawn over the input: what they gather, and where they are recovered.

For backbones that record units of semantic tokens (STViT, STViT-R) with their attention, which is
the mean over the heads. Works through the recorder alone. Letters: B batch, N = H*W patches, S
semantic tokens in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ..analysis.drawing import (
    add_title,
    cells_to_pixels,
    check_picture,
    contact_sheet,
    draw_box,
    draw_heat,
    draw_regions,
    shrink,
)
from ..analysis.records import (
    HEAT_SIDE,
    SHEET_SIDE,
    as_recorder,
    check_images,
    grid_stride,
    line_opacity,
)
from ..common.checks import HW, check_choice
from ..common.recorder import TokenRecorder

# The two steps in which semantic tokens gather, and what they are called in titles
STEPS = {'generate': 'first', 'refine': 'second'}
CHOSEN = (2, 3)  # tokens down and across that are drawn by default


@dataclass(frozen=True)
class SemanticUnit:
    """What semantic tokens do in one unit, for one sample.

    Args:
        stage: Counted from 1.
        number: Of the unit, counted from 0 through all stages.
        semantic_hw: Rows and columns of semantic tokens.
        padded_hw: Sides of the map of patches with whole windows, which the tokens divide evenly.
        step: In which they gathered, a key of ``STEPS``.
        gathered: ``(S, H, W)``, the attention of each token to the patches; sums to at most 1.
        recovered: ``(S, H, W)``, that of the patches to each token; sums to at most 1 over the
            tokens. None where tokens are not recovered.
    """

    stage: int
    number: int
    semantic_hw: HW
    padded_hw: HW
    step: str
    gathered: np.ndarray
    recovered: np.ndarray | None

    def place(self, token: int) -> tuple[int, int]:
        """Row and column of a token."""
        return divmod(token, self.semantic_hw[1])


def semantic_units(
    recorder: TokenRecorder, sample: int = 0, step: str = 'refine', unit: int | None = None
) -> list[SemanticUnit]:
    """The recorded units in the order in which they ran.

    Args:
        recorder: Of a backbone with semantic tokens, with its attention.
        sample: Which of the batch.
        step: What tokens gather in: ``'generate'`` or ``'refine'``, the first and second step.
        unit: This one alone, counted from 0; by default all.

    Returns:
        One entry per unit.

    Raises:
        ValueError: No units, none of this number, or no attention.
    """
    check_choice('step', step, STEPS)
    records = [
        (stage, record)
        for stage, values in sorted(recorder.stages.items())
        for record in values.get('units', ())
    ]
    if not records:
        raise ValueError(
            'semantic maps need a backbone that records units of semantic tokens, got none in any '
            'stage; use STViTR, STViTSwin or STViTDeiT'
        )
    if unit is not None and not 0 <= unit < len(records):
        raise ValueError(
            f'unit must be a number in [0, {len(records) - 1}], got {unit}; leave it out for all'
        )
    if any(step not in record for _, record in records):
        raise ValueError(
            f'semantic maps need attention, got units without {step!r}; record with attention=True'
        )

    def maps(weights: Tensor, hw: HW) -> np.ndarray:
        return weights.unflatten(-1, hw).float().cpu().numpy()

    return [
        SemanticUnit(
            stage=stage,
            number=number,
            semantic_hw=record['semantic_hw'],
            padded_hw=record['padded_hw'],
            step=step,
            gathered=maps(record[step][sample], record['hw']),
            recovered=(
                maps(record['recover'][sample].T, record['hw']) if 'recover' in record else None
            ),
        )
        for number, (stage, record) in enumerate(records)
        if unit in (None, number)
    ]


def token_part(unit: SemanticUnit, token: int) -> tuple[int, int, int, int]:
    """The patches from which a token was pooled: first row and column, last ones plus 1.

    May lie outside the map, which whole windows exceed. STViT on DeiT pads on all sides, and its
    parts lie up to a patch further to the top and to the left.
    """
    part = [
        (place * side // count, -(-(place + 1) * side // count))
        for place, side, count in zip(unit.place(token), unit.padded_hw, unit.semantic_hw)
    ]
    return part[0][0], part[1][0], part[0][1], part[1][1]


def strongest_tokens(unit: SemanticUnit) -> np.ndarray:
    """``(H, W)``: the token that each patch takes most from, the first of equals.

    Without recovery, the token that gathers most from it.
    """
    weights = unit.gathered if unit.recovered is None else unit.recovered
    return weights.argmax(0)


def overview_title(unit: SemanticUnit) -> str:
    """``'stage 3, unit 0: 76 of 270 tokens, mostly 9'``: how many are strongest somewhere."""
    tokens, patches = np.unique(strongest_tokens(unit), return_counts=True)
    share = f'{len(tokens)} of {len(unit.gathered)} tokens, mostly {tokens[patches.argmax()]}'
    return f'stage {unit.stage}, unit {unit.number}: {share}'


def sheet_title(unit: SemanticUnit) -> str:
    """``'stage 3, unit 0: 9 x 9 tokens of 16 x 16 patches; left second step, right recovery'``."""
    tokens, patches = (
        f'{height} x {width}' for height, width in (unit.semantic_hw, unit.gathered.shape[1:])
    )
    step = f'{STEPS[unit.step]} step'
    shown = step if unit.recovered is None else f'left {step}, right recovery'
    return f'stage {unit.stage}, unit {unit.number}: {tokens} tokens of {patches} patches; {shown}'


def choose_tokens(unit: SemanticUnit, tokens: Sequence[int] | None) -> list[int]:
    """The numbers of the tokens to draw, rising.

    Args:
        unit: Of which unit.
        tokens: Wanted numbers. None: 2x3 of them, spread evenly over the image.

    Returns:
        The numbers.

    Raises:
        ValueError: A number that there is not.
    """
    count, (rows, cols) = len(unit.gathered), unit.semantic_hw
    if tokens is None:
        # of tokens with patches, not with padding only
        hw = unit.gathered.shape[1:]
        inside = (
            sum(token_part(unit, row * cols)[0] < hw[0] for row in range(rows)),
            sum(token_part(unit, col)[1] < hw[1] for col in range(cols)),
        )
        down, across = (
            sorted({(2 * i + 1) * side // (2 * wanted) for i in range(wanted)})
            for side, wanted in zip(inside, CHOSEN)
        )
        return [row * cols + col for row in down for col in across]
    wanted = sorted(set(tokens))
    wrong = [number for number in wanted if not 0 <= number < count]
    if wrong or not wanted:
        raise ValueError(
            f'tokens must be numbers in [0, {count - 1}], got {wrong or "none"}; there are {rows} '
            f'rows of {cols}, counted row by row'
        )
    return wanted


def draw_token_sheet(
    image: np.ndarray, unit: SemanticUnit, input_hw: HW, tokens: Sequence[int]
) -> np.ndarray:
    """Heat maps of tokens on one sheet: what each gathers, and beside it where it is recovered.

    Attention is spread over so many patches that its differences are what there is to see: every
    heat map runs from its own smallest to its own largest weight, which stand above it. Patches of
    no weight at all, which a token does not see, are grey. A box shows the patches that it was
    pooled from.

    Args:
        image: ``(h, w, 3)`` uint8 RGB.
        unit: Their unit.
        input_hw: Size of the model's input.
        tokens: Numbers of the tokens to draw.

    Returns:
        The sheet, uint8.
    """
    check_picture(image, image[..., 0])
    kinds = [('gathers', unit.gathered)]
    if unit.recovered is not None:
        kinds.append(('is recovered', unit.recovered))
    small = shrink(
        image, max(HEAT_SIDE, round(SHEET_SIDE / math.ceil((len(kinds) * len(tokens)) ** 0.5)))
    )
    stride = grid_stride(input_hw, unit.gathered.shape[1:])

    def heat_map(token: int, what: str, weights: np.ndarray) -> np.ndarray:
        seen = weights[token][weights[token] > 0]
        low, high = (float(edge) for edge in ((seen.min(), seen.max()) if seen.size else (0, 0)))
        heat = cells_to_pixels(weights[token], input_hw, small.shape[:2], stride)
        drawn = draw_heat(small, heat, low, high)
        drawn = np.where((heat > 0)[..., None], drawn, draw_heat(small, heat, opacity=0.0))
        drawn = draw_box(drawn, _box(unit, token, input_hw, small.shape[:2]))
        return add_title(drawn, f'token {token} {what}: {100 * low:.3g} to {100 * high:.3g} %')

    rows = [
        contact_sheet([heat_map(token, *kind) for kind in kinds], len(kinds), gap=2)
        for token in tokens
    ]
    return contact_sheet(rows)


def draw_semantic_maps(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
    step: str = 'refine',
    unit: int | None = None,
    tokens: Sequence[int] | None = None,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and unit, which semantic token each patch takes most from.

    Without recovery: which gathers most from it.

    Args:
        model: A backbone of this suite, a model that has one as ``backbone``, or what
            :func:`~mmtoken.analysis.records.record_backbone` recorded of these inputs.
        inputs: ``(B, 3, H, W)``, normalised, where the model is.
        images: The same B pictures, ``(h, w, 3)`` uint8 RGB, at any size of the same proportions.
        titles: Put a strip with unit and sizes above.
        step: See :func:`semantic_units`.
        unit: See :func:`semantic_units`.
        tokens: Tokens to mark with a box and their number; see :func:`choose_tokens`.

    Returns:
        For each image: number of the unit to ``(h, w, 3)`` uint8 (higher with a title).
    """

    def paint(image: np.ndarray, found: SemanticUnit) -> np.ndarray:
        input_hw = tuple(inputs.shape[2:])
        stride = grid_stride(input_hw, found.gathered.shape[1:])
        labels = cells_to_pixels(strongest_tokens(found), input_hw, image.shape[:2], stride)
        picture = draw_regions(image, labels, lines=line_opacity(labels))
        for token in choose_tokens(found, tokens):
            picture = draw_box(
                picture, _box(found, token, input_hw, image.shape[:2]), label=str(token)
            )
        return add_title(picture, overview_title(found)) if titles else picture

    return _draw(model, inputs, images, step, unit, paint)


def draw_semantic_tokens(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
    step: str = 'refine',
    unit: int | None = None,
    tokens: Sequence[int] | None = None,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and unit, a sheet with what tokens gather and where they are recovered.

    Args:
        model: See :func:`draw_semantic_maps`.
        inputs: See :func:`draw_semantic_maps`.
        images: See :func:`draw_semantic_maps`.
        titles: Put a strip with unit, sizes and step above each sheet.
        step: See :func:`semantic_units`.
        unit: See :func:`semantic_units`.
        tokens: See :func:`choose_tokens`.

    Returns:
        For each image: number of the unit to a sheet (see :func:`draw_token_sheet`).
    """

    def paint(image: np.ndarray, found: SemanticUnit) -> np.ndarray:
        chosen = choose_tokens(found, tokens)
        sheet = draw_token_sheet(image, found, tuple(inputs.shape[2:]), chosen)
        return add_title(sheet, sheet_title(found)) if titles else sheet

    return _draw(model, inputs, images, step, unit, paint)


def _box(
    unit: SemanticUnit, token: int, input_hw: HW, image_hw: HW
) -> tuple[float, float, float, float]:
    """:func:`token_part` in pixels of a picture."""
    stride = grid_stride(input_hw, unit.gathered.shape[1:])
    scales = [stride * pixels / side for pixels, side in zip(image_hw, input_hw)] * 2
    return tuple(edge * scale for edge, scale in zip(token_part(unit, token), scales))


def _draw(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    step: str,
    unit: int | None,
    paint: Callable[[np.ndarray, SemanticUnit], np.ndarray],
) -> list[dict[int, np.ndarray]]:
    """Paint each sample, unit by unit."""
    check_images(inputs, images)
    recorder = as_recorder(model, inputs)
    return [
        {found.number: paint(image, found) for found in semantic_units(recorder, i, step, unit)}
        for i, image in enumerate(images)
    ]
