"""Modes on an image: where the tokens are that a mode asks from, and those that it finds.

Letters as in interaction.py; r modes, H x W cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis.drawing import add_title, cells_to_pixels, contact_sheet, shrink
from ..common.checks import HW
from .adapters import Layer
from .interaction import Modes, find_modes
from .tokens import Seen, Source, all_tokens, arrange

RED, CYAN = np.array([255, 30, 30]), np.array([0, 225, 225])  # both: white
CLIPPED = (30, 95)  # percentiles that are drawn as nothing and as the full colour, as published
SHEET_SIDE = 1600
LARGEST_STRIDE = 128


@dataclass(frozen=True)
class Mode:
    """One mode on one image.

    Args:
        head: Number of the head.
        number: Of the mode, the strongest is 0.
        cos: Cosine of its query and key.
        share: Its contribution, as a share of those of all modes of the layer.
        queries: ``(H, W)`` product of ``u`` with each query token.
        keys: ``(H', W')`` product of ``v`` with each key token.
    """

    head: int
    number: int
    cos: float
    share: float
    queries: np.ndarray
    keys: np.ndarray


def contributions(layer: Layer, seen: Seen) -> Tensor:
    """Attended product of each mode, ``(h, r)``: the sum of ``A_ij s_n (x_i u_n) (v_n c_j)``.

    Args:
        layer: The layer.
        seen: What it read and compared.

    Returns:
        The contributions; their sum over modes is the mean attended logit, without biases and
        scale, times the number of queries.
    """
    modes = find_modes(layer.projections.wq, layer.projections.wk)
    u, v = _project(modes, seen)
    total = torch.zeros_like(modes.strengths)
    for product in seen.products:
        rows, columns = arrange(layer, seen, product)
        weights = product.logits.double().softmax(-1)  # G h N M
        weights = weights * (rows >= 0)[:, None, :, None] * (columns >= 0)[:, None, None]
        for one, i, j in zip(weights, rows, columns):
            total += ((one @ v[:, j]) * u[:, i]).sum(1) * modes.strengths
    return total


def _project(modes: Modes, seen: Seen) -> tuple[Tensor, Tensor]:
    """All query tokens by ``u`` and all key tokens by ``v``, ``(h, R, r)``."""
    x, c = (all_tokens(sources).double() for sources in (seen.queries, seen.keys))
    return x @ modes.queries, c @ modes.keys


def find_mode_maps(
    layer: Layer,
    seen: Seen,
    input_hw: HW,
    prefix: int = 0,
    head: int | None = None,
    numbers: Sequence[int] | None = None,
    most: int = 6,
) -> list[Mode]:
    """Modes of a layer on one image, by default those that contribute most.

    Args:
        layer: The layer.
        seen: What it read and compared on a batch of one image.
        input_hw: Size of the model's input.
        prefix: Number of tokens in front of the patches.
        head: Of this head only; None for all.
        numbers: Modes of ``head`` to return.
        most: How many to return without ``numbers``.

    Returns:
        The modes, those that contribute most first, or in the order of ``numbers``.

    Raises:
        ValueError: If a head or mode does not exist, or tokens do not lie on a grid.
    """
    check_mode(layer, head, numbers)
    share = contributions(layer, seen)
    share = share / share.abs().sum().clamp(min=1e-30)
    if numbers is None:
        chosen = share.abs() if head is None else share.abs()[head : head + 1]
        ranked = chosen.flatten().argsort(descending=True, stable=True)[:most].tolist()
        places = [((head or 0) + i // share.shape[1], i % share.shape[1]) for i in ranked]
    else:
        places = [(head, n) for n in numbers]
    modes, found = find_modes(layer.projections.wq, layer.projections.wk), []
    for one, n in places:
        u, v = modes.queries[one, :, n], modes.keys[one, :, n]
        queries = on_grid(seen.queries[0], u, 0, layer, seen, input_hw, prefix)
        keys = on_grid(seen.keys[0], v, 1, layer, seen, input_hw, prefix)
        # of both signs, that under which the image answers more
        if queries.max() * keys.max() < queries.min() * keys.min():
            queries, keys = -queries, -keys
        cos, part = modes.similarity[one, n].item(), share[one, n].item()
        found.append(Mode(one, n, cos, part, queries.numpy(), keys.numpy()))
    return found


def check_mode(layer: Layer, head: int | None, numbers: Sequence[int] | None) -> None:
    """Raise unless a layer has this head and these modes."""
    h, d, dim = layer.projections.wq.shape
    if head is not None and not 0 <= head < h:
        raise ValueError(f'head must be in [0, {h}) in {layer.name}, got {head}')
    wrong = [n for n in numbers or () if not 0 <= n < min(d, dim)]
    if wrong or (numbers and head is None):
        rule = f'modes must be in [0, {min(d, dim)}) and of one head'
        raise ValueError(f'{rule} in {layer.name}, got modes {numbers} of head {head}')


def on_grid(
    source: Source, vector: Tensor, place: int, layer: Layer, seen: Seen, input_hw: HW, prefix: int
) -> Tensor:
    """Product of each token with a vector, ``(H, W)``."""
    values = (source.normed[0].double() @ vector).squeeze()
    if values.ndim == 2:
        return values
    given = seen.inputs[place] if len(seen.inputs) > place else None
    cells = _cells_of(given, values)
    if cells is not None:
        return cells
    assign = seen.output[1] if isinstance(seen.output, tuple) else None
    if place and isinstance(assign, Tensor) and assign.ndim == 3 and assign.shape[1] == len(values):
        values = assign[0].double().mT @ values  # clusters, back to their patches
    size = grid_size(len(values), input_hw, prefix)
    if size is None:
        raise ValueError(
            f'the tokens of {layer.name} must lie on a grid, got {len(values)} for an input of '
            f'{input_hw[0]}x{input_hw[1]} with {prefix} tokens in front; choose another layer'
        )
    return values[len(values) - size[0] * size[1] :].unflatten(0, size)


def _cells_of(given: Any, values: Tensor) -> Tensor | None:
    """Tokens that own cells of a grid, written to these cells."""
    assign = getattr(given, 'assign_idx', None)
    if assign is None or getattr(given, 'x', values[None]).shape[1] != len(values):
        return None
    return values[assign[0]].unflatten(0, tuple(given.init_hw))


def grid_size(count: int, input_hw: HW, prefix: int = 0) -> HW | None:
    """Rows and columns of a grid of ``count`` tokens over an image; None if there is none.

    Args:
        count: Number of tokens.
        input_hw: Size of the image.
        prefix: Number of tokens in front of the patches, which some layers have.

    Returns:
        The size.
    """
    for extra in dict.fromkeys((prefix, 0)):
        for stride in range(1, LARGEST_STRIDE + 1):
            for size in (
                tuple(-(-side // stride) for side in input_hw),
                tuple(side // stride for side in input_hw),
            ):
                if size[0] * size[1] == count - extra > 0:
                    return size
    return None


def count_prefix(model: Any) -> int:
    """Number of tokens in front of the patches, as the model says.

    Args:
        model: A backbone.

    Returns:
        The number.
    """
    for name in ('num_prefix_tokens', 'num_extra_tokens'):
        if isinstance(getattr(model, name, None), int):
            return getattr(model, name)
    tokens = (getattr(model, name, None) for name in ('cls_token', 'reg_token', 'dist_token'))
    return sum(one.shape[1] for one in tokens if isinstance(one, Tensor))


def draw_modes(
    image: np.ndarray, modes: Sequence[Mode], input_hw: HW, title: str, visible_hw: HW | None = None
) -> np.ndarray:
    """A sheet with the image and each mode: queries in red, keys in cyan, both in white.

    Args:
        image: ``(H, W, 3)`` uint8, the whole input.
        modes: Of :func:`find_mode_maps`.
        input_hw: Size of the model's input; cells lie over it from the top left corner.
        title: Above the sheet.
        visible_hw: Size of the input without padding.

    Returns:
        The sheet, uint8.
    """
    columns = min(len(modes) + 1, 4)
    small = shrink(image, max(240, SHEET_SIDE // columns))
    rows, cols = (
        max(1, round(seen * side / full))
        for seen, side, full in zip(visible_hw or input_hw, small.shape, input_hw)
    )
    panels = [add_title(small[:rows, :cols], 'input')]
    grey = small[:rows, :cols].mean(-1, keepdims=True) * 0.4
    for one in modes:
        drawn = np.repeat(grey, 3, -1)
        for cells, colour in ((one.queries, RED), (one.keys, CYAN)):
            values = cells_to_pixels(cells, input_hw, small.shape[:2])[:rows, :cols, None]
            low, high = np.percentile(values, CLIPPED)
            drawn += np.clip((values - low) / max(high - low, 1e-30), 0, 1) * colour * 0.75
        text = f'head {one.head}, mode {one.number}, cos {one.cos:.2f}, {100 * one.share:.0f} %'
        panels.append(add_title(drawn.clip(0, 255).astype(np.uint8), text))
    return add_title(contact_sheet(panels, columns), title)
