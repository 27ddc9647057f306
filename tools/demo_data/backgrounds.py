"""Textured backgrounds: sky with hills, or a wall, above a floor or ground.

Each texture is a picture ``(H, W, 3)``, float32 RGB; polygons are painted over it afterwards.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .canvas import SCALE, Canvas, Colour, Shape, darker, lighter, mix
from .outlines import ellipse, rectangle

BACKGROUNDS = ('sky', 'wall', 'ground', 'hill')

SKIES = (  # above, at the horizon
    ((110, 165, 225), (205, 228, 245)),
    ((90, 130, 190), (250, 215, 185)),
    ((150, 165, 180), (215, 220, 225)),
    ((235, 150, 110), (250, 225, 170)),
)
GROUNDS = (
    (118, 150, 80),
    (150, 140, 90),
    (205, 185, 140),
    (130, 130, 132),
    (95, 125, 75),
    (160, 150, 140),
)
FLOORS = ((175, 130, 90), (140, 100, 70), (165, 165, 170), (200, 190, 175), (110, 120, 135))
WALLS = (
    (215, 200, 180),
    (170, 190, 200),
    (200, 170, 150),
    (150, 165, 140),
    (225, 215, 220),
    (120, 130, 150),
)
BRICKS = ((170, 95, 75), (150, 80, 65), (190, 140, 110), (160, 155, 150))


def paint_background(canvas: Canvas, rng: Generator) -> float:
    """Fill the whole canvas; return the horizon, the y in pixels where the ground begins."""
    height = canvas.hw[0]
    horizon = height * rng.uniform(0.34, 0.5)
    outdoors = rng.random() < 0.58
    edge = round(horizon)
    sizes = (edge, canvas.hw[1]), (height - edge, canvas.hw[1])
    upper = sky(rng, sizes[0]) if outdoors else wall(rng, sizes[0])
    lower = ground(rng, sizes[1], GROUNDS if outdoors else FLOORS)
    texture = np.concatenate([upper, lower]).clip(0, 255).astype(np.uint8)
    cv2.resize(texture, canvas.picture.shape[1::-1], dst=canvas.picture)
    stamps = [canvas.stamp(-1, name) for name in BACKGROUNDS]
    canvas.stamps[:] = stamps[0 if outdoors else 1]
    canvas.stamps[edge * SCALE :] = stamps[2]
    if outdoors:
        canvas.paint(clouds(rng, canvas.hw, horizon), stamps[0])
        canvas.paint(hills(rng, canvas.hw, edge), stamps[3])
    else:
        canvas.paint(wall_decoration(rng, canvas.hw, edge), stamps[1])
    canvas.paint(ground_decoration(rng, canvas.hw, edge, outdoors), stamps[2])
    return float(edge)


def gradient(height: int, top: Colour, bottom: Colour) -> NDArray:
    """Return a vertical blend ``(H, 1, 3)``."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return (1 - share) * np.array(top, np.float32) + share * np.array(bottom, np.float32)


def smooth_noise(rng: Generator, hw: tuple[int, int], cells: tuple[int, int]) -> NDArray:
    """Return noise ``(H, W, 1)`` of unit deviation at its nodes, ``cells`` of them per side."""
    coarse = rng.normal(0, 1, cells).astype(np.float32)
    return cv2.resize(coarse, hw[::-1], interpolation=cv2.INTER_CUBIC)[..., None]


def sky(rng: Generator, hw: tuple[int, int]) -> NDArray:
    """Return a gradient with faint haze."""
    top, bottom = SKIES[rng.integers(len(SKIES))]
    return gradient(hw[0], top, bottom) + 5 * smooth_noise(rng, hw, (6, 4))


def wall(rng: Generator, hw: tuple[int, int]) -> NDArray:
    """Return a plain, striped or stained wall, lit from one side."""
    colour = WALLS[rng.integers(len(WALLS))]
    stains = rng.uniform(3, 9) * smooth_noise(rng, hw, (5, 5))
    grain = rng.uniform(1, 4) * smooth_noise(rng, hw, (hw[0] // 2, hw[1] // 2))
    return gradient(hw[0], lighter(colour, 0.08), darker(colour, 0.08)) + (stains + grain)


def ground(rng: Generator, hw: tuple[int, int], colours: tuple[Colour, ...]) -> NDArray:
    """Return a ground that pales towards the horizon, its grain coarser in front."""
    colour = colours[rng.integers(len(colours))]
    stains = smooth_noise(rng, hw, (hw[0] // 3, hw[1] // 24))
    grain = smooth_noise(rng, hw, (hw[0], hw[1] // 2))
    near = np.linspace(0.4, 1, hw[0], dtype=np.float32)[:, None, None]
    noise = rng.uniform(4, 12) * stains + rng.uniform(4, 13) * grain * near  # H W 1
    return gradient(hw[0], mix(colour, (190, 200, 205), 0.25), colour) + noise


def clouds(rng: Generator, hw: tuple[int, int], horizon: float) -> list[Shape]:
    """Return up to three clouds of a few puffs each."""
    shapes = []
    for _ in range(rng.integers(4)):
        centre = rng.uniform((0, 0), (hw[1], 0.6 * horizon))
        size = hw[0] * rng.uniform(0.03, 0.06)
        puffs = centre + rng.uniform((-2.2, -0.4), (2.2, 0.3), (6, 2)) * size
        tone = lighter((225, 230, 238), rng.uniform(0, 0.7))
        shapes += [Shape(ellipse(p, 1.3 * size, 0.7 * size), tone) for p in puffs]
    return shapes


def hills(rng: Generator, hw: tuple[int, int], horizon: int) -> list[Shape]:
    """Return up to two ridges on the horizon, the farther one paler."""
    shapes, count = [], rng.integers(3)
    tint = ((90, 125, 95), (120, 120, 140), (110, 140, 90), (140, 115, 95))[rng.integers(4)]
    x = np.linspace(-2, hw[1] + 2, 33)
    for k in range(count):
        phase, length = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.8, 2.4, 2)
        rise = sum(np.sin(p + n * 2 * np.pi * x / hw[1]) for p, n in zip(phase, length))
        top = horizon - hw[0] * (0.035 + 0.018 * rise + 0.05 * (count - 1 - k))
        ridge = np.stack([x, np.minimum(top, horizon - 1)], axis=1)
        corners = np.array([[hw[1] + 2, horizon - 0.5], [-2, horizon - 0.5]])
        pale = mix(tint, (200, 215, 225), 0.45 if k < count - 1 else 0.15)
        shapes.append(Shape(np.concatenate([ridge, corners]), pale))
    return shapes


def wall_decoration(rng: Generator, hw: tuple[int, int], edge: int) -> list[Shape]:
    """Return bricks, stripes or framed pictures, and a skirting board; all of it is wall."""
    kind = rng.choice(['bricks', 'stripes', 'frames'], p=[0.35, 0.3, 0.35])
    shapes = {'bricks': bricks, 'stripes': stripes, 'frames': frames}[kind](rng, hw, edge)
    tone = lighter((150, 130, 110), rng.uniform(0, 0.8))
    board = rectangle(-2, edge - 0.03 * hw[0], hw[1] + 2, edge - 0.5)
    return [*shapes, Shape(board, tone), Shape(board * (1, 1) - (0, 1), lighter(tone, 0.15))]


def bricks(rng: Generator, hw: tuple[int, int], edge: int) -> list[Shape]:
    """Return rows of bricks of slightly different tones."""
    tall = hw[0] * rng.uniform(0.035, 0.06)
    wide = tall * rng.uniform(2.0, 2.8)
    colour = BRICKS[rng.integers(len(BRICKS))]
    shapes = []
    for row in range(int(edge / tall) + 1):
        y = edge - (row + 1) * tall
        for x in np.arange(-wide * (0.5 if row % 2 else 1), hw[1], wide):
            tone = mix(colour, (60, 40, 40), rng.uniform(0, 0.22))
            shapes.append(
                Shape(rectangle(x + 0.7, y + 0.7, x + wide - 0.7, y + tall - 0.7), tone, False)
            )
    return shapes


def stripes(rng: Generator, hw: tuple[int, int], edge: int) -> list[Shape]:
    """Return wallpaper or boards: upright stripes."""
    wide = hw[1] * rng.uniform(0.04, 0.1)
    tone = mix(WALLS[rng.integers(len(WALLS))], (255, 255, 255), rng.uniform(0, 0.3))
    share = rng.uniform(0.3, 0.6)
    return [
        Shape(rectangle(x, -2, x + share * wide, edge - 0.5), tone, False)
        for x in np.arange(-wide * rng.random(), hw[1], wide)
    ]


def frames(rng: Generator, hw: tuple[int, int], edge: int) -> list[Shape]:
    """Return one to three framed pictures or windows."""
    shapes = []
    for k in range(rng.integers(1, 4)):
        width, tall = hw[0] * rng.uniform(0.12, 0.24), hw[0] * rng.uniform(0.12, 0.22)
        x, y = hw[1] * (k + rng.uniform(0.1, 0.6)) / 3, rng.uniform(0.02, 0.3) * edge
        pane = rectangle(x, y, x + width, y + tall)
        middle = pane.mean(axis=0)
        sky_tone = SKIES[rng.integers(len(SKIES))]
        shapes += [
            Shape(pane, lighter((110, 90, 70), rng.uniform(0, 0.8)), False),
            Shape(0.85 * pane + 0.15 * middle, sky_tone[0], False),
            Shape(
                rectangle(x + 0.08 * width, middle[1], x + 0.92 * width, y + 0.92 * tall),
                sky_tone[1],
                False,
            ),
        ]
    return shapes


def ground_decoration(
    rng: Generator, hw: tuple[int, int], edge: int, outdoors: bool
) -> list[Shape]:
    """Return a road, boards or tiles in perspective, or nothing; all of it is ground."""
    kind = rng.choice(['none', 'road', 'lines'], p=[0.62, 0.38, 0] if outdoors else [0.3, 0, 0.7])
    if kind == 'none':
        return []
    vanishing = np.array([hw[1] * rng.uniform(0.2, 0.8), edge + 0.5])
    tone = (105, 105, 110) if kind == 'road' else (75, 60, 50)
    if kind == 'road':
        x = hw[1] * rng.uniform(0.2, 0.8)
        return perspective_band(vanishing, x, 0.55 * hw[1], hw[0], tone) + [
            shape
            for low, high in ((0.1, 0.2), (0.32, 0.5), (0.68, 1.0))
            for shape in perspective_dash(vanishing, x, 0.03 * hw[1], hw[0], low, high)
        ]
    bottom = np.arange(-1.5, 2.5, rng.uniform(0.13, 0.26)) * hw[1]
    thin = 0.006 * hw[1]
    return [s for x in bottom for s in perspective_band(vanishing, x, thin, hw[0], tone)]


def perspective_band(
    vanishing: NDArray, x: float, half: float, bottom: int, tone: Colour
) -> list[Shape]:
    """Return a strip from the vanishing point to ``x +- half`` at the bottom of the image."""
    points = np.array([vanishing, (x - half, bottom + 1), (x + half, bottom + 1)])
    return [Shape(points, tone, False)]


def perspective_dash(
    vanishing: NDArray, x: float, half: float, bottom: int, low: float, high: float
) -> list[Shape]:
    """Return the piece of such a strip between two shares of the way down."""
    left, right = np.array([x - half, bottom]), np.array([x + half, bottom])
    points = [
        vanishing + share * (end - vanishing)
        for share, end in ((low, left), (low, right), (high, right), (high, left))
    ]
    return [Shape(np.array(points), (235, 232, 215), False)]
