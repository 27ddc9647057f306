"""A picture and a map of who painted which pixel, drawn together at twice the size.

Coordinates are pixel indices of the finished image: (0, 0) is the centre of the top left pixel.
Colours are RGB, 0 to 255.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SCALE = 2  # supersampling: every pixel is the mean of SCALE x SCALE drawn ones
FRACTION_BITS = 4  # OpenCV draws at 1/16 pixel

Colour = tuple[float, float, float]


class Shape(NamedTuple):
    """A filled polygon: ``points (N, 2)`` in pixels, and its colour.

    Decoration (``solid=False``) lies inside a solid shape of the same part, so that it does not
    need to be painted into the map of painters.
    """

    points: NDArray
    colour: Colour
    solid: bool = True


class Stamp(NamedTuple):
    """Who painted a pixel: index of the thing (-1 for background), its class, and the body part."""

    owner: int
    category: str
    part: str = ''


class Canvas:
    """Picture ``(sH, sW, 3)`` and stamps ``(sH, sW)``, s = SCALE; later paint covers earlier.

    Args:
        hw: Height and width of the finished image, pixels.
    """

    def __init__(self, hw: tuple[int, int]) -> None:
        self.hw = hw
        big = (hw[0] * SCALE, hw[1] * SCALE)
        self.picture = np.zeros((*big, 3), np.uint8)
        self.stamps = np.zeros(big, np.uint16)
        self.table: list[Stamp] = []

    def stamp(self, owner: int, category: str, part: str = '') -> int:
        """Return a fresh number to paint with; numbers grow with the order of painting."""
        self.table.append(Stamp(owner, category, part))
        return len(self.table) - 1

    def paint(self, shapes: list[Shape], stamp: int) -> None:
        """Fill the shapes in their order."""
        for shape in shapes:
            points = to_fixed_point(shape.points)
            cv2.fillPoly(self.picture, [points], shape.colour, cv2.LINE_8, FRACTION_BITS)
            if shape.solid:
                cv2.fillPoly(self.stamps, [points], stamp, cv2.LINE_8, FRACTION_BITS)

    def shade(self, centre: tuple[float, float], radii: tuple[float, float], depth: float) -> None:
        """Darken a soft ellipse (a contact shadow) by up to ``depth`` in [0, 1]."""
        height, width = self.stamps.shape
        cx, cy, rx, ry = (SCALE * v for v in (*centre, *radii))
        x0, x1 = (int(np.clip(v, 0, width)) for v in (cx - 1.5 * rx, cx + 1.5 * rx + 1))
        y0, y1 = (int(np.clip(v, 0, height)) for v in (cy - 1.5 * ry, cy + 1.5 * ry + 1))
        if x0 == x1 or y0 == y1:
            return
        dx = (np.arange(x0, x1, dtype=np.float32) - cx) / rx
        dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - cy) / ry
        light = 1 - depth * np.exp(-2 * (dx**2 + dy**2))  # h w
        region = self.picture[y0:y1, x0:x1]
        region[:] = (region * light[..., None]).astype(np.uint8)

    def finished_picture(self) -> NDArray:
        """Return the anti-aliased picture ``(H, W, 3)``, uint8 RGB."""
        return cv2.resize(self.picture, self.hw[::-1], interpolation=cv2.INTER_AREA)

    def finished_stamps(self) -> NDArray:
        """Return for each pixel the stamp ``(H, W)`` last painted at its centre."""
        return self.stamps[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def to_fixed_point(points: NDArray) -> NDArray:
    """Turn image coordinates ``(N, 2)`` into OpenCV's fixed point on the supersampled grid."""
    return np.rint((points * SCALE + (SCALE - 1) / 2) * (1 << FRACTION_BITS)).astype(np.int32)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return ``a`` with ``share`` in [0, 1] of ``b``."""
    return tuple((1 - share) * p + share * q for p, q in zip(a, b))


def darker(colour: Colour, share: float = 0.3) -> Colour:
    """Return the colour with ``share`` of black."""
    return mix(colour, (0, 0, 0), share)


def lighter(colour: Colour, share: float = 0.3) -> Colour:
    """Return the colour with ``share`` of white."""
    return mix(colour, (255, 255, 255), share)
