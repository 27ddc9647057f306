"""Where attention goes: to the same object, another one of its class, another class, or background.

Source: "Dissecting Query-Key Interaction in Vision Transformers" (arXiv:2405.14880), Sec. 4.1, with
masks of any data set in place of the odd-one-out images. Letters as in attention.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ..common.checks import HW
from .attention import GridAttention

REGIONS = ('same object', 'same class', 'other class', 'background')
COLOURS = ('#2b8a3e', '#1f5fbf', '#c77700', '#6b6b6b')
TICKS = (0, 0.5, 1, 1.5, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class Scene:
    """Objects of an image, over the model's input.

    Args:
        objects: ``(H, W)`` numbers of objects from 0 on; -1 for background, -2 for padding.
        classes: Class of each object.
    """

    objects: Tensor
    classes: list[int]
    _covers: dict[tuple, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def regions(self, number: int) -> Tensor:
        """Masks of the regions around an object, in the order of ``REGIONS``, ``(4, H, W)``."""
        classes = torch.tensor([*self.classes, -2, -1])[self.objects]  # -1 and -2 are the last two
        same, alike = self.objects == number, classes == self.classes[number]
        return torch.stack((same, alike & ~same, (classes >= 0) & ~alike, self.objects == -1))

    def cover(self, number: int, size: HW) -> Tensor:
        """Share of each cell of a grid that each region covers, ``(4, H', W')``; kept."""
        if (number, size) not in self._covers:
            stride = max(-(-side // count) for side, count in zip(self.objects.shape, size))
            self._covers[number, size] = cover(self.regions(number), size, stride)
        return self._covers[number, size]


def scene_of_masks(masks: np.ndarray, classes: Sequence[int]) -> Scene:
    """From masks ``(n, H, W)`` of objects; where some overlap, the last one counts."""
    objects = torch.full(masks.shape[1:], -1)
    for number, mask in enumerate(torch.from_numpy(masks.astype(bool))):
        objects[mask] = number
    return Scene(objects, list(classes))


def scene_of_segments(segments: np.ndarray, num_classes: int, ignored: Sequence[int]) -> Scene:
    """From a class per pixel ``(H, W)``: connected pixels of a class are one object.

    Args:
        segments: Classes; those in ``ignored`` and beyond ``num_classes`` are background.
        num_classes: Number of classes.
        ignored: Classes that are not labelled.

    Returns:
        The scene.
    """
    objects, classes = np.full(segments.shape, -1), []
    for one in sorted({*np.unique(segments).tolist()} & {*range(num_classes)} - {*ignored}):
        parts, count = ndimage.label(segments == one)
        objects[parts > 0] = parts[parts > 0] + len(classes) - 1
        classes += [one] * count
    return Scene(torch.from_numpy(objects), classes)


def cover(masks: Tensor, size: HW, stride: int) -> Tensor:
    """Share of each cell that each mask covers: ``(n, H, W)`` pixels -> ``(n, H', W')``."""
    height, width = (side * stride for side in size)
    masks = masks[:, :height, :width].float()
    padded = F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
    return F.avg_pool2d(padded, stride)


def preferences(attention: GridAttention, scene: Scene) -> Iterator[tuple[Tensor, Tensor]]:
    """Where one token of each object attends to: the one that the object covers most.

    Objects that cover less than half of every cell are left out.

    Args:
        attention: Of a layer.
        scene: Of the same input.

    Yields:
        By region, each summing to 1: shares of the attention of each head ``(h, 4)``, and of the
        area that the token can attend to ``(4,)``.
    """
    for number in range(len(scene.classes)):
        own = scene.cover(number, tuple(attention.queries.shape))[0]
        if own.max() < 0.5:
            continue
        token = int(attention.queries.flatten()[own.argmax()])
        areas = scene.cover(number, tuple(attention.keys.shape))
        weights = attention.of_token(token)
        areas = areas * ~weights[:1].isnan()
        mass = torch.einsum(
            'hyx,ryx->hr', weights.nan_to_num(), areas / areas.sum(0).clamp(min=1e-9)
        )
        area = areas.sum((1, 2))
        yield mass / mass.sum(1, keepdim=True), area / area.sum()


@dataclass
class Preference:
    """Means of a layer over objects.

    Args:
        name: Of the layer.
        objects: How many.
        attention: Sum of the shares of each head, ``(h, 4)``.
        area: Sum of the shares of the area, ``(4,)``.
    """

    name: str
    objects: int = 0
    attention: Tensor = field(default_factory=lambda: torch.zeros(1, 4))
    area: Tensor = field(default_factory=lambda: torch.zeros(4))

    def add(self, attention: GridAttention, scene: Scene) -> None:
        """Add the objects of an image."""
        for shares, area in preferences(attention, scene):
            self.objects += 1
            self.attention = self.attention + shares.double()
            self.area = self.area + area.double()

    def summary(self) -> dict:
        """For a JSON file."""
        return dict(
            name=self.name,
            objects=self.objects,
            regions=REGIONS,
            attention=(self.attention / self.objects).tolist(),
            area=(self.area / self.objects).tolist(),
        )


def table(summaries: Sequence[dict]) -> str:
    """A line per layer: attention to each region, mean over heads, and what is even attention."""
    width = max(5, *(len(one['name']) for one in summaries))
    lines = [f'{"layer":{width}}  objects  ' + '  '.join(f'{name:>15}' for name in REGIONS)]
    for one in summaries:
        mean = np.mean(one['attention'], 0)
        cells = (f'{100 * a:6.1f} % ({100 * b:4.1f})' for a, b in zip(mean, one['area']))
        lines.append(f'{one["name"]:{width}}  {one["objects"]:7}  ' + '  '.join(cells))
    return '\n'.join([*lines, 'In brackets: share of the area, which even attention would give.'])


def draw_preferences(summaries: Sequence[dict]) -> Figure:
    """Attention to each region over depth, relative to its area; points are heads."""
    figure = Figure((8, 4.5), layout='constrained')
    axes = figure.subplots()
    for region, (name, colour) in enumerate(zip(REGIONS, COLOURS)):
        found = [
            (depth, np.array(one['attention'])[:, region] / one['area'][region])
            for depth, one in enumerate(summaries)
            if one['area'][region] > 0
        ]
        if found:
            axes.plot(*zip(*((x, v.mean()) for x, v in found)), '-', color=colour, label=name)
            heads = [(x, v) for x, values in found for v in values]
            axes.scatter(*zip(*heads), s=7, color=colour, alpha=0.45, lw=0)
    axes.axhline(1, color='0.4', lw=0.7)
    axes.set(xlabel='attention layer', ylabel='attention / area', yscale='symlog', ylim=(0, None))
    ticks = [tick for tick in TICKS if tick <= axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.legend(frameon=False, loc='upper left', bbox_to_anchor=(1.0, 1.0))
    return figure
