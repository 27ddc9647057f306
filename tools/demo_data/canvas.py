"""A canvas that remembers which shape is seen where: picture and annotations are read from it.

Coordinates are pixel indices of the finished image: (0, 0) is the centre of the top left pixel.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

BACKGROUNDS = ('sky', 'wall', 'ground', 'hill')
SCALE = 2  # supersampling: every pixel is the mean of SCALE x SCALE drawn ones
BITS = 4  # OpenCV draws at 1/16 pixel
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)  # 24 2


def paint(
    colour: ArrayLike,
    accent: ArrayLike | None = None,
    period: tuple[float, float] = (0, 0),
    contrast: float = 9,
    grain: float = 3,
) -> NDArray:
    """A row ``(10,)`` of numbers: two colours (RGB, 0 to 255), their pattern, and noise.

    The share of ``accent`` is ``0.5 + contrast * cos * cos`` clipped to [0, 1]; the cosines have
    ``period`` pixels along x and y, 0 for a constant. ``grain`` is the deviation of the noise.
    """
    frequency = [2 * np.pi / p if p else 0 for p in period]
    return np.array([*colour, *(colour if accent is None else accent), *frequency, contrast, grain])


def shade(row: NDArray, light: float) -> NDArray:
    """The same paint, lighter (``light`` above 1) or darker."""
    return np.concatenate([row[:6] * light, row[6:]])


class Canvas:
    """Map of shapes, later ones over earlier ones, for an image of ``hw`` pixels."""

    def __init__(self, hw: tuple[int, int]) -> None:
        self.hw = hw
        self.layer = np.zeros((SCALE * hw[0], SCALE * hw[1]), np.int32)  # index of the shape
        self.shapes: list[tuple[NDArray, int, tuple]] = []  # paint, owner, joints
        self.owners = list(BACKGROUNDS)  # their classes; each person or thing adds one
        self.bodies: dict[int, dict[str, NDArray]] = {}  # joints (2,) of owners that are people

    def fill(
        self, points: ArrayLike, radii: ArrayLike, row: NDArray, owner: int = -1, joints: tuple = ()
    ) -> None:
        """Paint the convex hull of discs around ``points (N, 2)`` or ``(2,)``, pixels.

        It belongs to an index into ``owners``, by default the last; people and things get outlines.
        Where it is seen, ``joints`` of the owner are visible.
        """
        discs = np.reshape(points, (-1, 1, 2)) + CIRCLE * np.reshape(radii, (-1, 1, 1))  # N 24 2
        fixed = np.rint((discs * SCALE + (SCALE - 1) / 2) * (1 << BITS)).astype(np.int32)
        hull = cv2.convexHull(fixed.reshape(-1, 1, 2))
        index, owner = len(self.shapes), owner % len(self.owners)
        cv2.fillPoly(self.layer, [hull], index, shift=BITS)
        rim = index + (owner >= len(BACKGROUNDS))
        cv2.polylines(self.layer, [hull], True, rim, thickness=SCALE, shift=BITS)
        self.shapes += [(row, owner, joints), (shade(row, 0.65), owner, joints)]

    def seen(self) -> NDArray:
        """Index ``(H, W)`` of the shape in the centre of each pixel."""
        return self.layer[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]

    def owner_map(self) -> NDArray:
        """Index ``(H, W)`` into ``owners`` for each pixel."""
        return np.array([owner for _, owner, _ in self.shapes])[self.seen()]

    def keypoints(self, owner: int) -> NDArray:
        """x, y, and visibility 0 (outside the image), 1 (hidden) or 2 ``(17, 3)`` of a person."""
        rows, seen = np.zeros((len(self.bodies[owner]), 3)), self.seen()
        for row, (name, at) in zip(rows, self.bodies[owner].items()):
            x, y = np.round(at, 2)
            if 0 <= x <= self.hw[1] - 1 and 0 <= y <= self.hw[0] - 1:
                _, top, joints = self.shapes[seen[round(y), round(x)]]
                row[:] = x, y, 2 if top == owner and name in joints else 1
        return rows

    def picture(self, rng: Generator) -> NDArray:
        """The anti-aliased picture ``(H, W, 3)``, uint8 RGB, in random light."""
        rows = np.array([row for row, _, _ in self.shapes], np.float32)
        colour, accent = (rows[:, k : k + 3].take(self.layer, axis=0) for k in (0, 3))  # H W 3
        fx, fy, contrast, grain = (column.take(self.layer) for column in rows.T[6:])  # H W
        y, x = (np.arange(side, dtype=np.float32) / SCALE for side in self.layer.shape)
        share = (0.5 + contrast * np.cos(fx * x) * np.cos(fy * y[:, None])).clip(0, 1)
        picture = colour + share[..., None] * (accent - colour)
        picture += (grain * noise(rng, self.layer.shape))[..., None]
        picture = cv2.resize(picture, self.hw[::-1], interpolation=cv2.INTER_AREA)
        light = rng.uniform(0.85, 1.06) * rng.uniform(0.96, 1.04, 3)
        picture = picture * light + rng.normal(0, 2.5, (*self.hw, 1))  # the camera's noise
        return picture.clip(0, 255).astype(np.uint8)


def noise(rng: Generator, hw: tuple[int, int]) -> NDArray:
    """Coarse and fine noise ``(H, W)`` of about unit deviation."""
    total = np.zeros(hw, np.float32)
    for cell in (3, 12, 48):
        nodes = rng.normal(0, 0.7, (hw[0] // cell + 1, hw[1] // (2 * cell) + 1))
        total += cv2.resize(nodes.astype(np.float32), hw[::-1], interpolation=cv2.INTER_CUBIC)
    return total
