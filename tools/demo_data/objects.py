"""Things that are not people: each function draws one, standing at ``foot``, as shapes.

``foot (2,)`` is the pixel where the thing touches the ground, ``unit`` the height in pixels of a
person standing there.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .canvas import Colour, Shape, darker, lighter
from .outlines import CIRCLE, capsule, ellipse, rectangle

BRIGHT = (
    (222, 72, 66), (62, 120, 200), (245, 196, 66), (70, 160, 95), (240, 135, 60), (150, 95, 180),
)  # fmt: skip
WOODS = ((190, 140, 90), (160, 110, 70), (205, 165, 115), (130, 90, 60))
FURS = (
    (150, 100, 60),
    (90, 65, 50),
    (225, 205, 175),
    (60, 58, 60),
    (200, 150, 95),
    (235, 235, 230),
)


def choose(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    """Draw one of the colours."""
    return colours[rng.integers(len(colours))]


def box(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a crate of a width between a fifth and a half of a person."""
    return crate(rng, foot, *(unit * rng.uniform(0.18, 0.42, 2)))


def crate(rng: Generator, foot: NDArray, width: float, height: float) -> list[Shape]:
    """Draw a crate seen from the front and a little from above and one side; sizes in pixels."""
    wood = choose(rng, WOODS + BRIGHT)
    depth = np.array([rng.choice([-1, 1]) * rng.uniform(0.15, 0.35) * width, -0.2 * width])
    x0, x1, y = foot[0] - width / 2, foot[0] + width / 2, foot[1]
    front = rectangle(x0, y - height, x1, y)
    side = front[[1, 2]] if depth[0] > 0 else front[[0, 3]]
    shapes = [
        Shape(np.concatenate([side, (side + depth)[::-1]]), darker(wood, 0.35)),
        Shape(np.concatenate([front[:2], (front[:2] + depth)[::-1]]), lighter(wood, 0.28)),
        Shape(front, darker(wood, 0.3)),
        Shape(rectangle(x0 + 1, y - height + 1, x1 - 1, y - 1), wood, False),
    ]
    rim = 0.09 * min(width, height)
    inner = rectangle(x0 + rim, y - height + rim, x1 - rim, y - rim)
    shapes.append(Shape(inner, darker(wood, 0.2), False))
    for k in np.linspace(0, 1, 4)[:-1]:
        top = y - height + rim + k * (height - 2 * rim)
        bottom = top + (height - 2 * rim) / 3 - 0.35 * rim
        shapes.append(Shape(rectangle(x0 + rim, top, x1 - rim, bottom), wood, False))
    return shapes


def ball(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a ball with coloured segments or spots and a highlight."""
    radius = unit * rng.uniform(0.07, 0.15)
    centre = foot - (0, radius)
    base, other = (BRIGHT[i] for i in rng.permutation(len(BRIGHT))[:2])
    light = (245, 245, 240) if rng.random() < 0.6 else base
    shapes = [
        Shape(ellipse(centre, radius), darker(base, 0.4)),
        Shape(ellipse(centre, 0.94 * radius), light, False),
    ]
    turn = rng.uniform(0, np.pi)
    for k, colour in enumerate((base, other, base)):
        start = turn + k * 2 * np.pi / 3
        angles = np.linspace(start, start + np.pi / 3, 7)
        arc = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 0.94 * radius + centre
        pole = centre - 0.25 * radius
        shapes.append(Shape(np.concatenate([arc, pole[None]]), colour, False))
    shapes.append(Shape(ellipse(centre - 0.38 * radius, 0.2 * radius), (255, 255, 255), False))
    return shapes


def cone(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a traffic cone with white bands."""
    height = unit * rng.uniform(0.2, 0.38)
    half, tip = 0.27 * height, 0.05 * height
    colour = choose(rng, ((240, 110, 40), (232, 85, 45), (245, 170, 40)))

    def band(low: float, high: float, inset: float = 0.0) -> NDArray:
        at = [(half + (tip - half) * v) * (1 - inset) for v in (low, high)]
        y = [foot[1] - (0.08 + 0.92 * v) * height for v in (low, high)]
        x = foot[0]
        return np.array(
            [[x - at[0], y[0]], [x + at[0], y[0]], [x + at[1], y[1]], [x - at[1], y[1]]]
        )

    base = rectangle(
        foot[0] - 0.42 * height, foot[1] - 0.09 * height, foot[0] + 0.42 * height, foot[1]
    )
    return [
        Shape(base, darker(colour, 0.35)),
        Shape(band(0, 1), darker(colour, 0.3)),
        Shape(band(0, 1, 0.16), colour, False),
        Shape(band(0.25, 0.45, 0.08), (245, 245, 245), False),
        Shape(band(0.62, 0.78, 0.08), (245, 245, 245), False),
    ]


def tree(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a tree with a round crown or a fir."""
    height = unit * rng.uniform(0.95, 1.7)
    green = choose(
        rng, ((70, 130, 60), (45, 105, 65), (110, 145, 55), (150, 120, 50), (60, 140, 95))
    )
    bark = choose(rng, ((105, 75, 50), (85, 65, 50), (130, 105, 80)))
    top = foot - (0, 0.55 * height)
    shapes = [
        Shape(capsule(foot, top, 0.045 * height, 0.03 * height), darker(bark, 0.3)),
        Shape(capsule(foot - (0.008 * height, 0), top, 0.028 * height, 0.02 * height), bark, False),
    ]
    return shapes + (fir if rng.random() < 0.4 else crown)(rng, foot, height, green)


def fir(rng: Generator, foot: NDArray, height: float, green: Colour) -> list[Shape]:
    """Return tiers of branches, the lowest first."""
    shapes = []
    for k, low in enumerate((0.16, 0.4, 0.62)):
        half, top = (0.27 - 0.06 * k) * height, min(low + 0.42, 1.0)
        tier = np.array([[-half, -low * height], [half, -low * height], [0, -top * height]]) + foot
        shapes.append(Shape(tier, darker(green, 0.35 - 0.1 * k)))
        light = tier * (1, 1) + (
            (0.12 * half, -1),
            (-0.5 * half, -1),
            (-0.04 * half, 0.04 * height),
        )
        shapes.append(Shape(light, lighter(green, 0.08 * k), False))
    return shapes


def crown(rng: Generator, foot: NDArray, height: float, green: Colour) -> list[Shape]:
    """Return a crown of overlapping tufts, dark below and light above."""
    centre = foot - (0, 0.7 * height)
    around = rng.uniform(-1, 1, (9, 2)) * (0.17 * height, 0.15 * height) + centre
    around = around[np.argsort(-around[:, 1])]
    radii = rng.uniform(0.11, 0.17, 9) * height
    shapes = [Shape(ellipse(p, r), darker(green, 0.38)) for p, r in zip(around, radii)]
    for k, (p, r) in enumerate(zip(around, radii)):
        tone = darker(green, 0.22 - 0.05 * k) if k < 4 else lighter(green, 0.03 * (k - 4))
        shapes.append(Shape(ellipse(p - 0.1 * r, 0.85 * r), tone, False))
    return shapes


def pole(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a lamp post or a road sign."""
    height, thick = unit * rng.uniform(0.9, 1.35), max(unit * 0.022, 1.2)
    colour = choose(rng, ((120, 125, 130), (70, 75, 80), (95, 110, 100)))
    top = foot - (0, height)
    shapes = [
        Shape(
            rectangle(foot[0] - 2 * thick, foot[1] - thick, foot[0] + 2 * thick, foot[1]),
            darker(colour, 0.3),
        ),
        Shape(rectangle(foot[0] - thick, top[1], foot[0] + thick, foot[1]), darker(colour, 0.25)),
        Shape(
            rectangle(foot[0] - 0.6 * thick, top[1], foot[0], foot[1]), lighter(colour, 0.3), False
        ),
    ]
    size = 0.1 * unit
    if rng.random() < 0.5:
        return shapes + [
            Shape(ellipse(top, 0.75 * size), darker(colour, 0.4)),
            Shape(ellipse(top, 0.6 * size), (255, 240, 190), False),
        ]
    face = choose(rng, BRIGHT)
    corners = ((CIRCLE, CIRCLE[::5], CIRCLE[::7])[rng.integers(3)] * size) @ np.array(
        [[0, -1], [1, 0]]
    )
    return shapes + [
        Shape(corners * 1.15 + top, (245, 245, 245)),
        Shape(corners * 0.95 + top, face, False),
        Shape(corners * (0.45, 0.12) + top, (245, 245, 245), False),
    ]


def dog(rng: Generator, foot: NDArray, unit: float) -> list[Shape]:
    """Draw a dog from the side."""
    size = unit * rng.uniform(0.26, 0.4)
    fur, ahead = choose(rng, FURS), rng.choice([-1, 1])

    def at(x: float, y: float) -> NDArray:
        return foot + (ahead * x * size, -y * size)

    def piece(a: NDArray, b: NDArray, ra: float, rb: float, colour: Colour) -> list[Shape]:
        return [
            Shape(capsule(a, b, ra * size, rb * size), darker(colour, 0.35)),
            Shape(capsule(a, b, 0.8 * ra * size, 0.8 * rb * size), colour, False),
        ]

    step = rng.uniform(0, 0.14)
    far, shapes = darker(fur, 0.25), []
    for x, swing in ((-0.42, step), (0.4, -step)):
        shapes += piece(at(x, 0.5), at(x + swing, 0.06), 0.1, 0.065, far)
    shapes += piece(at(-0.6, 0.68), at(-0.85, 0.68 + rng.uniform(0.1, 0.4)), 0.06, 0.035, fur)
    shapes += piece(at(-0.45, 0.58), at(0.42, 0.6), 0.2, 0.22, fur)
    for x, swing in ((-0.5, -step), (0.46, step)):
        shapes += piece(at(x, 0.5), at(x + swing, 0.06), 0.11, 0.07, fur)
    shapes += piece(at(0.5, 0.68), at(0.66, 0.95), 0.16, 0.13, fur)
    shapes += piece(at(0.68, 0.98), at(0.94, 0.9), 0.17, 0.08, fur)
    shapes += piece(at(0.58, 1.1), at(0.5, 0.9), 0.07, 0.08, darker(fur, 0.3))
    shapes.append(Shape(ellipse(at(0.99, 0.93), 0.05 * size), (25, 22, 22)))
    shapes.append(Shape(ellipse(at(0.75, 1.03), 0.035 * size), (20, 18, 18), False))
    collar = choose(rng, BRIGHT)
    return shapes + [
        Shape(capsule(at(0.5, 0.84), at(0.68, 0.78), 0.035 * size, 0.035 * size), collar)
    ]


OBJECTS: dict[str, Callable[[Generator, NDArray, float], list[Shape]]] = {
    'box': box,
    'ball': ball,
    'cone': cone,
    'tree': tree,
    'pole': pole,
    'dog': dog,
}
