"""Scenes: background, people and things, painted from the farthest to the nearest."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .canvas import BACKGROUNDS, Canvas, paint, shade
from .people import paint_person
from .poses import sample_pose
from .things import THINGS, paint_thing

EYE_LEVEL = 0.55  # height of the camera above the ground, in body heights
SKY, WALL, GROUND, HILL = range(len(BACKGROUNDS))


def draw_scene(rng: Generator, hw: tuple[int, int]) -> Canvas:
    """Draw a scene of ``hw`` pixels with one to four people and some things."""
    canvas, (height, width) = Canvas(hw), hw
    horizon = round(height * rng.uniform(0.34, 0.5))
    ground = paint_background(canvas, rng, horizon)
    # the height in pixels of a person who fits; only a few people are closer than that
    fits = min(horizon / (1 - EYE_LEVEL), 0.95 * height, 1.3 * width)
    items = []  # y and x of the foot, height in pixels of a person who stands there, class
    count = rng.choice([1, 2, 3, 4], p=[0.4, 0.34, 0.2, 0.06])
    for k in range(count):
        tall = fits * (rng.uniform(1.1, 1.4) if rng.random() < 0.1 else rng.uniform(0.52, 0.98))
        x = width * (k + 0.5 + rng.uniform(-0.33, 0.33)) / count
        items.append((horizon + EYE_LEVEL * tall, x, tall, 'person'))
    for category in rng.choice(list(THINGS), rng.integers(1, 6)):
        tall = fits * rng.uniform(*(0.35, 0.65) if category in ('tree', 'pole') else (0.45, 1.15))
        y = min(horizon + EYE_LEVEL * tall, 1.02 * height)
        items.append((y, width * rng.uniform(0.02, 0.98), tall, str(category)))
    for y, x, tall, _ in items:
        shadow = [(x - 0.15 * tall, y), (x + 0.15 * tall, y)]
        canvas.fill(shadow, 0.03 * tall, shade(ground, 0.75), GROUND)
    for y, x, tall, category in sorted(items):
        if category != 'person':
            paint_thing(canvas, rng, category, (x, y), tall * rng.uniform(*THINGS[category][1:]))
            continue
        legs, points = sample_pose(rng)
        if legs == 'sit':
            seat = (points['left_hip'] + points['right_hip']) / 2
            at = (x + tall * seat[0], y - 0.01 * tall)
            paint_thing(canvas, rng, 'box', at, tall * (seat[1] - 0.05))
        paint_person(canvas, rng, points, (x, y), tall)
    return canvas


def paint_background(canvas: Canvas, rng: Generator, horizon: int) -> NDArray:
    """Paint sky and hills or a wall, then the ground; return the paint of the ground."""
    height, width = canvas.hw
    frame = np.array([(-0.1, -0.1), (1.1, -0.1), (1.1, 1.1), (-0.1, 1.1)]) * (width, height)
    floor = paint(rng.uniform((90, 90, 70), (205, 185, 150)), grain=rng.uniform(7, 14))
    if rng.random() < 0.58:
        top = rng.uniform((90, 130, 160), (200, 175, 230))
        fade = paint(top, 0.3 * top + (175, 160, 150), (0, 2 * horizon), contrast=-0.5)
        canvas.fill(frame, 0, fade, SKY)
        for x, y, r in rng.uniform((0, 0, 0.02), (1, 0.6, 0.05), (rng.integers(12), 3)):
            ends = np.array([(x - 1.5 * r, y), (x + 1.5 * r, y)]) * (width, horizon)
            canvas.fill(ends, r * height, paint((240, 240, 240)), SKY)
        for x, r in rng.uniform((0, 0.2), (1, 0.8), (rng.integers(5), 2)):
            slope = paint(rng.uniform((100, 120, 95), (150, 160, 150)), grain=6)
            canvas.fill((x * width, horizon + (0.93 * r - 0.03) * width), r * width, slope, HILL)
    else:
        colour, period = rng.uniform(120, 225, 3), rng.uniform(0.04, 0.2, 2) * height
        period *= ((1, 1), (1, 0), (0, 0))[rng.integers(3)]
        plaster = paint(colour, 0.9 * colour, period, contrast=4, grain=6)
        canvas.fill(frame, 0, plaster, WALL)
    canvas.fill(frame.clip(min=(-np.inf, horizon)), 0, floor, GROUND)
    return floor
