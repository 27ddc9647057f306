"""What a model's tokens stand for, drawn over its input. Works through the recorder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..analysis.drawing import add_title, cells_to_pixels, draw_heat, draw_regions
from ..analysis.records import as_recorder, check_images, recorded_kind
from ..common.checks import HW
from ..common.recorder import TokenRecorder


def stage_labels(recorder: TokenRecorder, sample: int = 0) -> dict[int, np.ndarray]:
    """Stage to the token that owns each grid cell, ``(H0, W0)`` integers."""
    return {
        stage: record['tokens'].assign_idx[sample].view(record['tokens'].init_hw).cpu().numpy()
        for stage, record in sorted(recorder.stages.items())
        if 'tokens' in record
    }


def stage_scores(recorder: TokenRecorder, sample: int = 0) -> dict[int, np.ndarray]:
    """Stage to the importance score of the tokens that it merged, per grid cell ``(H0, W0)``.

    A score is the logarithm of a token's weight in its cluster and a bonus on its attention.
    """
    labels = stage_labels(recorder, sample)
    scores = {}
    for stage, record in sorted(recorder.stages.items()):
        if 'token_score' in record and stage - 1 in labels:
            score = record['token_score'][sample, :, 0].float().cpu().numpy()
            scores[stage] = score[labels[stage - 1]]
    return scores


def draw_token_maps(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and stage, the regions of pixels that share a token.

    Args:
        model: A backbone of this suite, a model that has one as ``backbone``, or what
            :func:`record_backbone` recorded of these inputs.
        inputs: ``(B, 3, H, W)``, normalised, where the model is.
        images: The same B pictures, ``(h, w, 3)`` uint8 RGB, at any size of the same proportions.
        titles: Put a strip with stage, number of tokens and map size above.

    Returns:
        For each image: stage, counted from 1, to ``(h, w, 3)`` uint8 (higher with a title).
    """

    def paint(
        stage: int, record: dict[str, Any], image: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, str]:
        tokens = record['tokens']
        # cells of a grid need no hues to be told apart
        picture = draw_regions(image, labels, tint=0.0 if tokens.on_grid else 0.5)
        return picture, stage_title(stage, tokens.num_tokens, tokens.hw)

    return _draw(model, inputs, images, titles, stage_labels, paint)


def draw_score_maps(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool = True,
) -> list[dict[int, np.ndarray]]:
    """Draw, for each image and merging stage, the importance scores of the tokens it merged.

    Args:
        model: See :func:`draw_token_maps`.
        inputs: See :func:`draw_token_maps`.
        images: See :func:`draw_token_maps`.
        titles: Put a strip with the stage and the range of the scores above.

    Returns:
        For each image: stage, counted from 1, to ``(h, w, 3)`` uint8 (higher with a title).
    """

    def paint(
        stage: int, _record: dict[str, Any], image: np.ndarray, heat: np.ndarray
    ) -> tuple[np.ndarray, str]:
        title = f'score into stage {stage}: {heat.min():.2f} to {heat.max():.2f}'
        return draw_heat(image, heat), title

    return _draw(model, inputs, images, titles, stage_scores, paint)


def _draw(
    model: nn.Module | TokenRecorder,
    inputs: Tensor,
    images: Sequence[np.ndarray],
    titles: bool,
    cells_of: Callable[[TokenRecorder, int], dict[int, np.ndarray]],
    paint: Callable[..., tuple[np.ndarray, str]],
) -> list[dict[int, np.ndarray]]:
    """Record the model once, then paint what ``cells_of`` finds in each sample, stage by stage."""
    check_images(inputs, images)
    recorder = as_recorder(model, inputs)
    kind = recorded_kind(recorder)
    if kind != 'tokens':
        raise ValueError(
            f'token maps need a backbone that records token sets, got one that records {kind!r}; '
            'use the maps of its own package'
        )
    drawn = []
    for sample, image in enumerate(images):
        maps = {}
        for stage, cells in cells_of(recorder, sample).items():
            pixels = cells_to_pixels(cells, tuple(inputs.shape[2:]), image.shape[:2])
            picture, title = paint(stage, recorder.stages[stage], image, pixels)
            maps[stage] = add_title(picture, title) if titles else picture
        drawn.append(maps)
    return drawn


def stage_title(stage: int, num_tokens: int, hw: HW) -> str:
    """``'stage 2: 768 tokens, 32 x 24 map'``."""
    return f'stage {stage}: {num_tokens} tokens, {hw[0]} x {hw[1]} map'
