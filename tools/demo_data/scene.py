"""Compose a scene: background, people and things, painted from the farthest to the nearest."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .backgrounds import BACKGROUNDS, paint_background
from .bodies import Body, place_body, sample_look
from .canvas import Canvas
from .objects import OBJECTS, crate
from .people import body_parts, seen_parts
from .poses import JOINTS, sample_pose

THINGS = ('person', *OBJECTS)  # classes with instances
EYE_LEVEL = 0.55  # height of the camera above the ground, in body heights
MAX_PEOPLE = 4


class Instance(NamedTuple):
    """A person or an object; ``joints (17, 3)`` of a person hold x, y, visibility (0, 1, 2)."""

    category: str
    joints: NDArray | None


class Scene(NamedTuple):
    """A finished scene.

    ``picture (H, W, 3)`` is uint8 RGB; ``owner (H, W)`` holds the index of the visible instance
    or -1; ``background (H, W)`` the index into BACKGROUNDS, undefined under instances.
    """

    picture: NDArray
    owner: NDArray
    background: NDArray
    instances: list[Instance]


class Placement(NamedTuple):
    """What stands where: its class, foot point in pixels, and a person's height there."""

    category: str
    foot: tuple[float, float]
    unit: float


def draw_scene(rng: Generator, hw: tuple[int, int]) -> Scene:
    """Draw one scene; all randomness comes from ``rng``."""
    canvas = Canvas(hw)
    horizon = paint_background(canvas, rng)
    placements = sample_people(rng, hw, horizon) + sample_objects(rng, hw, horizon)
    bodies: list[Body | None] = []
    for item in sorted(placements, key=lambda item: item.foot[1]):
        canvas.shade(item.foot, (0.2 * item.unit, 0.045 * item.unit), 0.45)
        if item.category == 'person':
            add_person(canvas, rng, item, bodies)
        else:
            shapes = OBJECTS[item.category](rng, np.array(item.foot), item.unit)
            canvas.paint(shapes, canvas.stamp(len(bodies), item.category))
            bodies.append(None)
    return finish(canvas, rng, bodies)


def sample_people(rng: Generator, hw: tuple[int, int], horizon: float) -> list[Placement]:
    """Place one to four people side by side, now and then one in front of another."""
    count = rng.choice(np.arange(1, MAX_PEOPLE + 1), p=[0.4, 0.34, 0.2, 0.06])
    order = rng.permutation(count)
    people = []
    for k in order:
        limit = tallest(hw, horizon)
        close = rng.random() < 0.1
        tall = limit * rng.uniform(1.1, 1.4) if close else limit * rng.uniform(0.52, 0.98)
        x = hw[1] * (k + 0.5 + rng.uniform(-0.33, 0.33)) / count
        people.append(Placement('person', (x, horizon + EYE_LEVEL * tall), tall))
    return people


def tallest(hw: tuple[int, int], horizon: float) -> float:
    """Return the height in pixels of a person who fits; only a few people are closer than that."""
    return min(horizon / (1 - EYE_LEVEL), 0.95 * hw[0], 1.3 * hw[1])


def sample_objects(rng: Generator, hw: tuple[int, int], horizon: float) -> list[Placement]:
    """Place a few things, most of them behind the people, tall ones always."""
    items = []
    for _ in range(rng.integers(1, 6)):
        category = str(rng.choice(list(OBJECTS)))
        low, high = (0.35, 0.65) if category in ('tree', 'pole') else (0.45, 1.15)
        near = rng.uniform(low, high) * tallest(hw, horizon)
        x = hw[1] * rng.uniform(0.02, 0.98)
        items.append(Placement(category, (x, min(horizon + EYE_LEVEL * near, 1.02 * hw[0])), near))
    return items


def add_person(canvas: Canvas, rng: Generator, item: Placement, bodies: list[Body | None]) -> None:
    """Paint a person, and beneath one who sits a crate."""
    pose, look = sample_pose(rng), sample_look(rng)
    body = place_body(pose, item.foot, item.unit)
    if pose.legs == 'sit':
        seat = (body.at['left_hip'] + body.at['right_hip']) / 2
        tall = item.foot[1] - seat[1] - 0.03 * item.unit
        at = np.array([seat[0], item.foot[1] - 0.01 * item.unit])
        shapes = crate(rng, at, rng.uniform(0.26, 0.36) * item.unit, max(tall, 0.1 * item.unit))
        canvas.paint(shapes, canvas.stamp(len(bodies), 'box'))
        bodies.append(None)
    for part in body_parts(body, look):
        canvas.paint(part.shapes, canvas.stamp(len(bodies), 'person', part.name))
    bodies.append(body)


def finish(canvas: Canvas, rng: Generator, bodies: list[Body | None]) -> Scene:
    """Read picture, owners and visible joints off the canvas; add light and sensor noise."""
    stamps = canvas.finished_stamps()
    table = canvas.table
    owner = np.array([stamp.owner for stamp in table], np.int16)[stamps]
    known = [BACKGROUNDS.index(s.category) if s.owner < 0 else 0 for s in table]
    background = np.array(known, np.uint8)[stamps]
    classes = {s.owner: s.category for s in table}
    instances = [
        Instance(classes[k], None if body is None else joints(body, k, canvas, stamps))
        for k, body in enumerate(bodies)
    ]
    return Scene(expose(canvas.finished_picture(), rng), owner, background, instances)


def joints(body: Body, owner: int, canvas: Canvas, stamps: NDArray) -> NDArray:
    """Return ``(17, 3)``: x, y, and 0 outside the image, 1 hidden, 2 visible.

    A joint is visible where the last paint on its pixel is a limb of this person that carries it.
    """
    height, width = canvas.hw
    rows = np.zeros((len(JOINTS), 3))
    for k, name in enumerate(JOINTS):
        x, y = np.round(body.at[name], 2)
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            continue
        stamp = canvas.table[stamps[round(y), round(x)]]
        seen = stamp.owner == owner and stamp.part in seen_parts(body, name)
        rows[k] = x, y, 2 if seen else 1
    return rows


def expose(picture: NDArray, rng: Generator) -> NDArray:
    """Change contrast and white balance a little and add sensor noise."""
    gain = rng.uniform(0.85, 1.06) * rng.uniform(0.96, 1.04, 3)
    noise = rng.integers(-4, 5, picture.shape[:2], dtype=np.int16)[..., None]
    light = (picture * gain.astype(np.float32)).astype(np.int16) + noise
    return light.clip(0, 255).astype(np.uint8)
