"""What is drawn of a person: a pose placed on the image, how it is dressed, and painted parts."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .canvas import Colour, Shape
from .poses import Pose

SKINS = (
    (244, 208, 178),
    (241, 194, 155),
    (224, 172, 125),
    (198, 134, 90),
    (141, 85, 54),
    (96, 60, 42),
)
HAIRS = ((35, 26, 22), (70, 45, 30), (120, 75, 40), (200, 160, 90), (150, 60, 35), (165, 165, 165))
CLOTHES = (
    (214, 64, 69), (46, 116, 181), (250, 190, 70), (60, 150, 95), (240, 240, 235), (45, 50, 65),
    (150, 90, 170), (235, 125, 60), (90, 190, 200), (235, 140, 165), (125, 135, 60), (110, 75, 60),
)  # fmt: skip
TROUSERS = (
    (45, 60, 100),
    (40, 42, 48),
    (120, 100, 75),
    (90, 95, 105),
    (70, 110, 160),
    (85, 45, 50),
)


class Look(NamedTuple):
    """How a person is dressed; ``girth`` scales the thickness of the limbs."""

    skin: Colour
    hair: Colour
    shirt: Colour
    accent: Colour
    trousers: Colour
    shoes: Colour
    girth: float
    sleeve: float  # share of the arm that the shirt covers, 1 is the elbow and 2 the wrist
    trouser_leg: float  # share of the leg covered, 1 is the knee and 2 the ankle
    pattern: str
    hair_length: str


class Part(NamedTuple):
    """A piece of a body: its name, its nearness in body heights, and its shapes."""

    name: str
    nearness: float
    shapes: list[Shape]


class Body(NamedTuple):
    """A pose on the image.

    ``at`` holds the points ``(2,)`` of the pose in pixels, ``near`` how far they are towards the
    viewer in body heights; ``height`` is the length of the standing body in pixels.
    """

    at: dict[str, NDArray]
    near: dict[str, float]
    pose: Pose
    height: float


def sample_look(rng: Generator) -> Look:
    """Draw skin, hair and clothes."""
    shirt, accent = rng.permutation(len(CLOTHES))[:2]
    return Look(
        skin=jitter(rng, SKINS[rng.integers(len(SKINS))]),
        hair=jitter(rng, HAIRS[rng.integers(len(HAIRS))]),
        shirt=jitter(rng, CLOTHES[shirt]),
        accent=jitter(rng, CLOTHES[accent]),
        trousers=jitter(rng, TROUSERS[rng.integers(len(TROUSERS))]),
        shoes=jitter(rng, (CLOTHES + TROUSERS)[rng.integers(len(CLOTHES + TROUSERS))]),
        girth=rng.uniform(0.9, 1.25),
        sleeve=rng.choice([0.0, 0.6, 1.95], p=[0.15, 0.5, 0.35]),
        trouser_leg=rng.choice([0.75, 1.95], p=[0.35, 0.65]),
        pattern=str(rng.choice(['plain', 'stripes', 'band'], p=[0.55, 0.25, 0.2])),
        hair_length=str(rng.choice(['short', 'long', 'bun'], p=[0.6, 0.28, 0.12])),
    )


def jitter(rng: Generator, colour: Colour) -> Colour:
    """Return a colour close by: a little lighter or darker, a trace of another hue."""
    near = np.array(colour) * rng.uniform(0.88, 1.1) + rng.normal(0, 3, 3)
    return tuple(float(v) for v in near.clip(8, 250))


def place_body(pose: Pose, foot: tuple[float, float], height: float) -> Body:
    """Put a pose on the image, its lowest point at ``foot`` (x, y), ``height`` pixels tall."""
    at = {
        k: np.array([foot[0] + height * v[0], foot[1] - height * v[1]])
        for k, v in pose.points.items()
    }
    return Body(at, {k: float(v[2]) for k, v in pose.points.items()}, pose, height)
