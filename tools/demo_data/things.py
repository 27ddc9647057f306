"""Things that are not people, as lists of parts from the farthest to the nearest.

A part is the centres of discs, their radii, and the paint of their hull. Lengths are in sizes of
the thing, x to the right and y up from where it stands; ``size`` itself is in pixels.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from .canvas import Canvas, paint, shade
from .people import any_colour

WHITE = (245, 245, 240)
Parts = list[tuple[ArrayLike, ArrayLike, NDArray]]


def box(rng: Generator, size: float) -> Parts:
    """A crate of planks, seen a little from above and from one side."""
    width, planks = rng.uniform(0.6, 1.2), (0, size / 3)
    wood = paint(any_colour(rng), any_colour(rng), planks, contrast=2, grain=6)
    front = np.array([(-0.5, 0), (0.5, 0), (0.5, 1 / width), (-0.5, 1 / width)]) * width
    back = front + (0.25 * width, 0.2 * width)
    side, top = ([*front[k], *back[k]] for k in ([1, 2], [2, 3]))
    return [(side, 0, shade(wood, 0.65)), (top, 0, shade(wood, 1.25)), (front, 0, wood)]


def ball(rng: Generator, size: float) -> Parts:
    """A checked ball with a highlight."""
    checks = paint(any_colour(rng), WHITE, (size, size))
    return [((0, 0.5), 0.5, checks), ((-0.18, 0.72), 0.07, paint((255, 255, 255)))]


def cone(rng: Generator, size: float) -> Parts:
    """A traffic cone with white bands."""
    orange = rng.uniform((225, 80, 25), (250, 150, 50))
    bands = paint(orange, WHITE, (0, 0.45 * size))
    foot = ([(-0.4, 0.04), (0.4, 0.04)], 0.04, paint(0.65 * orange))
    return [foot, ([(0, 0.28), (0, 0.96)], (0.2, 0.04), bands)]


def tree(rng: Generator, size: float) -> Parts:
    """A trunk and a crown of tufts, light above and dark below."""
    green = paint(rng.uniform((40, 95, 40), (130, 150, 95)), grain=18)
    bark = paint(rng.uniform((80, 60, 45), (130, 105, 80)), grain=10)
    trunk = ([(0, 0), (0, 0.55)], (0.045, 0.03), bark)
    tufts = rng.uniform((-0.16, 0.55, 0.11), (0.16, 0.88, 0.17), (9, 3))
    tufts = tufts[tufts[:, 1].argsort()]
    return [trunk, *(((x, y), r, shade(green, 0.4 + 0.8 * y)) for x, y, r in tufts)]


def pole(rng: Generator, size: float) -> Parts:
    """A pole with a sign that is round, or wide like a street's name."""
    shaft = ([(0, 0), (0, 0.9)], 0.017, paint(rng.uniform(60, 130, 3)))
    half, sign = rng.choice([0, 0.06]), paint(any_colour(rng), WHITE, (0.1 * size, 0))
    return [shaft, ([(-half, 0.92), (half, 0.92)], 0.06 - half / 2, sign)]


def dog(rng: Generator, size: float) -> Parts:
    """A dog from the side."""
    fur = paint(rng.uniform(0.3, 0.95) * np.array([235, 190, 145]), grain=9)
    dark, step, tail = shade(fur, 0.75), rng.uniform(0, 0.14), rng.uniform(0.8, 1.1)
    stance = ((-0.42, step, dark), (0.4, -step, dark), (-0.5, -step, fur), (0.46, step, fur))
    legs = [([(x, 0.5), (x + swing, 0.07)], (0.11, 0.065), row) for x, swing, row in stance]
    return [
        *legs[:2],
        ([(-0.6, 0.68), (-0.85, tail)], (0.06, 0.035), fur),
        ([(-0.45, 0.58), (0.42, 0.6)], (0.2, 0.22), fur),
        *legs[2:],
        ([(0.5, 0.68), (0.66, 0.95)], (0.16, 0.13), fur),  # neck
        ([(0.68, 0.98), (0.94, 0.9)], (0.17, 0.08), fur),  # head
        ([(0.58, 1.1), (0.5, 0.9)], (0.07, 0.08), dark),  # ear
        ((0.99, 0.93), 0.05, paint((25, 22, 22))),
        ((0.75, 1.03), 0.035, paint((20, 18, 18))),
    ]


THINGS = {  # range of sizes, in heights of a person who stands there
    'box': (box, 0.18, 0.42),
    'ball': (ball, 0.14, 0.3),
    'cone': (cone, 0.2, 0.38),
    'tree': (tree, 0.95, 1.7),
    'pole': (pole, 0.95, 1.4),
    'dog': (dog, 0.26, 0.4),
}


def paint_thing(
    canvas: Canvas, rng: Generator, category: str, foot: ArrayLike, size: float
) -> None:
    """Paint a thing of ``size`` pixels that stands on the pixel ``foot (2,)``."""
    canvas.owners.append(category)
    mirror = rng.choice([-1, 1])
    for points, radii, row in THINGS[category][0](rng, size):
        at = np.multiply(points, (mirror * size, -size)) + foot
        canvas.fill(at, size * np.array(radii), row)
