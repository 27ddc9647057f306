"""Soft clusters drawn over the input: who weighs a patch most, and where each cluster looks.

For backbones that record assignments ``(B, M, N)``, each row a distribution over the patches.
Works through the recorder alone. Letters: B batch, M clusters, N = H*W patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from ..analysis.drawing import (
    add_title,
    cells_to_pixels,
    check_picture,
    contact_sheet,
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
from ..common.checks import HW
from ..common.recorder import TokenRecorder


def stage_assignments(
    recorder: TokenRecorder, sample: int = 0, block: int | None = None
) -> dict[int, np.ndarray]:
    """Stage to the weight of every patch in every cluster; stages without clusters are left out.

    Args:
        recorder: Of a backbone that clusters softly.
        sample: Which of the batch.
        block: Of the clustering in this block of a stage, counted from 0; by default the first.

    Returns:
        ``(M, H, W)`` each; every cluster sums to 1.

    Raises:
        ValueError: No stage has clusters, or none clusters in this block.
    """
    by_stage = {
        stage: (record, record['assign_by_block'])
        for stage, record in sorted(recorder.stages.items())
        if 'assign' in record
    }
    if not by_stage:
        raise ValueError(
            'cluster maps need a backbone that records clusters, got none in any stage; use '
            'PaCaViT with num_clusters above 0'
        )
    found = {
        stage: record['assign'] if block is None else blocks[block]
        for stage, (record, blocks) in by_stage.items()
        if block is None or block in blocks
    }
    if not found:
        there = '; '.join(f'stage {s}: {sorted(blocks)}' for s, (_, blocks) in by_stage.items())
        raise ValueError(
            f'block must be one with a clustering of its own, got {block}; choose of {there}'
        )
    return {
        stage: assign[sample].unflatten(-1, recorder.stages[stage]['hw']).float().cpu().numpy()
        for stage, assign in found.items()
    }


def stages_left_out(recorder: TokenRecorder, block: int | None = None) -> list[int]:
    """Stages that :func:`stage_assignments` leaves out."""
    drawn = stage_assignments(recorder, block=block)
    return [stage for stage in sorted(recorder.stages) if stage not in drawn]


def strongest_clusters(assign: np.ndarray) -> np.ndarray:
    """``(M, H, W)`` -> ``(H, W)``: the cluster that weighs each patch most, the first of equals."""
    return assign.argmax(0)


def peak_weights(assign: np.ndarray) -> np.ndarray:
    """``(M, H, W)`` -> ``(M,)``: the largest weight of each cluster, in multiples of 1 / N."""
    return assign.max((1, 2)) * assign[0].size


def cluster_title(stage: int, assign: np.ndarray, block: int | None = None) -> str:
    """``'stage 2: 100 clusters, 32 x 24 map'``."""
    count, height, width = assign.shape
    where = f'stage {stage}' if block is None else f'stage {stage}, block {block}'
    return f'{where}: {count} clusters, {height} x {width} map'


def choose_clusters(
    assigns: dict[int, np.ndarray], clusters: Sequence[int] | None
) -> dict[int, list[int]]:
    """Stage to the numbers of the clusters to draw, rising.

    Args:
        assigns: Stage to ``(M, H, W)``.
        clusters: Wanted numbers; a stage with fewer clusters shows those that it has.

    Returns:
        All clusters of each stage where ``clusters`` is None; stages without any of them are
        left out.

    Raises:
        ValueError: A number that no stage has.
    """
    counts = {stage: len(assign) for stage, assign in assigns.items()}
    if clusters is None:
        return {stage: list(range(count)) for stage, count in counts.items()}
    wanted = sorted(set(clusters))
    wrong = [number for number in wanted if not 0 <= number < max(counts.values())]
    if wrong or not wanted:
        raise ValueError(
            f'clusters must be numbers in [0, {max(counts.values()) - 1}], got '
            f'{wrong or "none"}; the stages have '
            + ', '.join(f'{stage}: {count}' for stage, count in counts.items())
        )
    chosen = {stage: [n for n in wanted if n < count] for stage, count in counts.items()}
    return {stage: numbers for stage, numbers in chosen.items() if numbers}


def draw_heat_sheet(
    image: np.ndarray, assign: np.ndarray, input_hw: HW, numbers: Sequence[int]
) -> np.ndarray:
    """Heat maps of clusters on one sheet, each with its number and its peak.

    Every heat map runs from 0 to its own largest weight, because clusters spread over different
    numbers of patches; the peak, in multiples of the uniform weight 1 / N, says how much. The
    fewer maps, the larger each, up to the size of the image.

    Args:
        image: ``(h, w, 3)`` uint8 RGB.
        assign: ``(M, H, W)``.
        input_hw: Size of the model's input.
        numbers: Clusters to draw.

    Returns:
        The sheet, uint8.
    """
    check_picture(image, image[..., 0])
    small = shrink(image, max(HEAT_SIDE, round(SHEET_SIDE / math.ceil(len(numbers) ** 0.5))))
    stride = grid_stride(input_hw, assign.shape[1:])
    peaks = peak_weights(assign)

    def heat_map(number: int) -> np.ndarray:
        heat = cells_to_pixels(assign[number], input_hw, small.shape[:2], stride)
        drawn = draw_heat(small, heat, low=0.0, high=float(assign[number].max()))
        digits = 0 if peaks[number] >= 100 else 1
        return add_title(drawn, f'{number}: {peaks[number]:.{digits}f}x')

    return contact_sheet([heat_map(number) for number in numbers])


def draw_cluster_maps(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
    block: int | None = None,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and stage with clusters, which cluster weighs each patch most.

    Args:
        model: A backbone of this suite, a model that has one as ``backbone``, or what
            :func:`~mmtoken.analysis.records.record_backbone` recorded of these inputs.
        inputs: ``(B, 3, H, W)``, normalised, where the model is.
        images: The same B pictures, ``(h, w, 3)`` uint8 RGB, at any size of the same proportions.
        titles: Put a strip with stage, number of clusters and map size above.
        block: See :func:`stage_assignments`.

    Returns:
        For each image: stage, counted from 1, to ``(h, w, 3)`` uint8 (higher with a title).
    """

    def paint(stage: int, image: np.ndarray, assign: np.ndarray) -> np.ndarray:
        input_hw = tuple(inputs.shape[2:])
        stride = grid_stride(input_hw, assign.shape[1:])
        labels = cells_to_pixels(strongest_clusters(assign), input_hw, image.shape[:2], stride)
        picture = draw_regions(image, labels, lines=line_opacity(labels))
        return add_title(picture, cluster_title(stage, assign, block)) if titles else picture

    return _draw(model, inputs, images, block, paint)


def draw_cluster_heats(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
    block: int | None = None,
    clusters: Sequence[int] | None = None,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and stage with clusters, a sheet with each cluster's heat map.

    Args:
        model: See :func:`draw_cluster_maps`.
        inputs: See :func:`draw_cluster_maps`.
        images: See :func:`draw_cluster_maps`.
        titles: Put a strip with stage, number of clusters and map size above each sheet.
        block: See :func:`stage_assignments`.
        clusters: See :func:`choose_clusters`; all by default.

    Returns:
        For each image: stage, counted from 1, to a sheet (see :func:`draw_heat_sheet`).
    """

    def paint(stage: int, image: np.ndarray, assign: np.ndarray) -> np.ndarray | None:
        if stage not in chosen:
            return None
        sheet = draw_heat_sheet(image, assign, tuple(inputs.shape[2:]), chosen[stage])
        title = f'{cluster_title(stage, assign, block)}; peak weights in multiples of 1 / N'
        return add_title(sheet, title) if titles else sheet

    check_images(inputs, images)
    recorder = as_recorder(model, inputs)
    chosen = choose_clusters(stage_assignments(recorder, block=block), clusters)
    return _draw(recorder, inputs, images, block, paint)


def _draw(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    block: int | None,
    paint: Callable[[int, np.ndarray, np.ndarray], np.ndarray | None],
) -> list[dict[int, np.ndarray]]:
    """Paint each sample, stage by stage; what ``paint`` returns None for is left out."""
    check_images(inputs, images)
    recorder = as_recorder(model, inputs)
    drawn = []
    for sample, image in enumerate(images):
        assigns = stage_assignments(recorder, sample, block)
        maps = {stage: paint(stage, image, assign) for stage, assign in assigns.items()}
        drawn.append({stage: picture for stage, picture in maps.items() if picture is not None})
    return drawn
