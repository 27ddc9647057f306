"""Records of a forward pass, and the two neutral pictures that any record can become.

A paper derives its own records from :class:`Record` and says in :meth:`Record.pictures` what is
drawn of them. Drawing, hooks and analysis use :class:`Regions` and :class:`Heats` only.

Letters: B batch, H x W cells of a grid that starts at the top left corner of the input, K maps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """Which cells of a grid belong together.

    Args:
        name: Short and unique within a forward pass, e.g. ``'stage2'``; part of file names.
        title: Text above the picture.
        labels: ``(H, W)`` integers; cells with the same label form a region.
        stride: Side of a cell in pixels of the input.
    """

    name: str
    title: str
    labels: Tensor
    stride: int


@dataclass(frozen=True)
class Heats:
    """K maps of numbers over a grid, each drawn on a scale of its own.

    Args:
        name: As in :class:`Regions`.
        title: Text above the sheet; says what the numbers are.
        values: ``(K, H, W)``; NaN where a map has no value.
        stride: Side of a cell in pixels of the input.
        boxes: ``(K, 4)`` top, left, bottom and right in cells, to outline a part of each map.
    """

    name: str
    title: str
    values: Tensor
    stride: int
    boxes: Tensor | None = None


@dataclass(frozen=True)
class Record:
    """Base class of records.

    Args:
        stage: 1-based index of the stage that it comes from.
    """

    stage: int

    def pictures(self, sample: int) -> list[Regions | Heats]:
        """Pictures of one sample of the batch."""
        raise NotImplementedError(f'{type(self).__name__} must define pictures')
