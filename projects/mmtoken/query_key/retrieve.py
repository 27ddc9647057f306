"""The images that a mode answers to most: the largest query times the largest key of an image."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .adapters import Layer
from .interaction import find_modes
from .maps import check_mode, count_prefix, on_grid
from .tokens import observe

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}


class Found(NamedTuple):
    """An image and how much a mode answers to it; ordered by score."""

    score: float
    path: Path


def find_images(places: Iterable[Path]) -> Iterator[Path]:
    """Picture files and those below folders, one at a time."""
    for place in places:
        if place.is_dir():
            yield from (one for one in place.rglob('*') if one.suffix.lower() in SUFFIXES)
        else:
            yield place


def best(found: Iterable[Found], most: int) -> list[Found]:
    """The ``most`` best of any number of images; only these are kept in memory."""
    return heapq.nlargest(most, found)


class ModeScore:
    """Score of one mode on one image: ``max_i (x_i u) max_j (v c_j)`` over patches, of both signs.

    Args:
        model: A backbone in eval mode.
        layer: Of this model.
        head: Number of the head.
        mode: Number of the mode, the strongest is 0.

    Raises:
        ValueError: If there is no such head or mode.
    """

    def __init__(self, model: nn.Module, layer: Layer, head: int, mode: int) -> None:
        check_mode(layer, head, [mode])
        modes = find_modes(layer.projections.wq[head], layer.projections.wk[head])
        self.model, self.layer, self.prefix = model, layer, count_prefix(model)
        self.vectors = modes.queries[:, mode], modes.keys[:, mode]
        self.cos = modes.similarity[mode].item()

    def __call__(self, inputs: Tensor) -> float:
        """The score of a batch of one image."""
        seen = observe(self.model, [self.layer], lambda: self.model(inputs), products=False)
        if self.layer.name not in seen:
            raise ValueError(f'the layer must run in a forward pass, got {self.layer.name}')
        seen, size = seen[self.layer.name], tuple(inputs.shape[2:])
        sources = (seen.queries[0], seen.keys[0])
        u, v = (
            on_grid(source, vector, place, self.layer, seen, size, self.prefix)
            for place, (source, vector) in enumerate(zip(sources, self.vectors))
        )
        return torch.maximum(u.max() * v.max(), u.min() * v.min()).item()
