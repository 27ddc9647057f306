"""People: limbs, trunk and head as hulls of discs, painted from the farthest to the nearest.

A part is a tuple: nearness to the viewer, the points that it spans, radii in body heights, paint,
and the joints that are visible where the part is.
"""

import colorsys

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from .canvas import Canvas, paint, shade
from .poses import HEAD_RADIUS, JOINTS, SIDES

PATTERNS = ((0, 0), (0, 0), (0, 0), (0, 0.09), (0.09, 0), (0.1, 0.1))  # periods, body heights
SKINS = np.array([(96, 60, 42), (244, 208, 178)])  # and everything between these two
ARM, LEG = ('shoulder', 'elbow', 'wrist', 'hand'), ('hip', 'knee', 'ankle', 'toe')
FACING = 0.25  # an eye or the nose is seen if it points to the viewer by this cosine


def any_colour(rng: Generator) -> NDArray:
    """Draw a colour of any hue, RGB from 0 to 255."""
    return 255 * np.array(colorsys.hsv_to_rgb(*rng.uniform((0, 0.1, 0.25), (1, 0.9, 0.95))))


def paint_person(
    canvas: Canvas, rng: Generator, points: dict[str, NDArray], foot: ArrayLike, height: float
) -> None:
    """Paint a person in a pose: ``height`` pixels tall if upright, on the pixel ``foot (2,)``."""
    at = {name: np.add(foot, height * p[:2] * (1, -1)) for name, p in points.items()}
    canvas.owners.append('person')
    canvas.bodies[len(canvas.owners) - 1] = {name: at[name] for name in JOINTS}
    skin = paint(SKINS[0] + rng.random() * (SKINS[1] - SKINS[0]))
    period = height * np.array(PATTERNS[rng.integers(len(PATTERNS))])
    shirt = paint(any_colour(rng), any_colour(rng) if period.any() else None, period, grain=7)
    girth = height * rng.uniform(0.95, 1.2)
    z = {name: point[2] for name, point in points.items()}
    parts = body_parts(rng, z, shirt, skin) + head_parts(rng, z, skin)
    for _, names, radii, row, joints in sorted(parts, key=lambda part: part[0]):
        canvas.fill([at[name] for name in names], girth * np.array(radii), row, joints=joints)


def body_parts(rng: Generator, z: dict[str, float], shirt: NDArray, skin: NDArray) -> list[tuple]:
    """Parts of trunk, arms and legs; ``z`` is the nearness of the points."""
    trousers, shoes = (paint(any_colour(rng), grain=7) for _ in range(2))
    sleeves, legs = rng.choice(3, p=[0.15, 0.5, 0.35]), rng.choice([1, 2], p=[0.35, 0.65])
    arm = [shirt if k < sleeves else skin for k in range(2)]
    leg = [trousers if k < legs else skin for k in range(2)]
    chest = (z['neck'] + z['pelvis']) / 2
    trunk = ('left_shoulder', 'right_shoulder', 'left_hip', 'right_hip')
    middles = ('neck', 'neck', 'pelvis', 'pelvis')
    # the trunk hides the shoulder and the hip of its far side
    near = tuple(name for name, middle in zip(trunk, middles) if z[name] > z[middle] - 0.06)
    hips = tuple(name for name in near if name in trunk[2:])
    parts = [
        (chest - 0.002, trunk[2:], (0.055, 0.055), trousers, hips),
        (min(chest, z['head']) - 0.001, ('neck', 'head'), (0.034, 0.032), shade(skin, 0.85), ()),
        (chest, trunk, (0.038, 0.038, 0.045, 0.045), shirt, near),
    ]
    for side in SIDES:
        shoulder, elbow, wrist, hand = (f'{side}_{name}' for name in ARM)
        hip, knee, ankle, toe = (f'{side}_{name}' for name in LEG)
        front = 0.045 if z[elbow] + z[hand] > 2 * chest - 0.06 else -0.04
        upper, fore = (z[shoulder] + z[elbow]) / 2 + front, (z[elbow] + z[hand]) / 2 + front + 0.02
        thigh, shin = (z[hip] + z[knee]) / 2 - 0.025, (z[knee] + z[ankle]) / 2 - 0.02
        parts += [
            (upper, (shoulder, elbow), (0.036, 0.029), arm[0], (shoulder, elbow)),
            (fore, (elbow, wrist), (0.029, 0.022), arm[1], (elbow, wrist)),
            (fore + 0.001, (wrist, hand), (0.018, 0.025), skin, (wrist,)),
            (thigh, (hip, knee), (0.055, 0.041), leg[0], (hip, knee)),
            (shin, (knee, ankle), (0.04, 0.027), leg[1], (knee, ankle)),
            (shin - 0.005, (ankle, toe), (0.03, 0.024), shoes, (ankle,)),
        ]
    return parts


def head_parts(rng: Generator, z: dict[str, float], skin: NDArray) -> list[tuple]:
    """Parts of the head; eyes and nose only where they face the viewer."""
    radius, near = HEAD_RADIUS, z['head'] + 0.06
    facing = {name: (z[name] - z['head']) / radius for name in JOINTS[:5]}
    hair = paint(rng.uniform(0.1, 0.8) * rng.uniform((200, 130, 60), (240, 190, 130)), grain=8)
    parts = [(near, ('head',), radius, hair, ())]
    if rng.random() < 0.35:
        order = near + (-0.2 if facing['nose'] > 0 else 0.004)
        parts.append((order, ('head', 'neck'), (radius, 0.8 * radius), shade(hair, 0.9), ()))
    if facing['nose'] > -0.2:
        parts.append((near + 0.001, ('face',), 0.82 * radius, skin, ()))
    for side in SIDES:
        ear, eye = f'{side}_ear', f'{side}_eye'
        order = near + (0.002 if facing[ear] > -0.25 else -0.001)
        parts.append((order, (ear,), 0.26 * radius, shade(skin, 0.9), (ear,)))
        if facing[eye] > FACING:
            parts.append((near + 0.003, (eye,), 0.2 * radius, paint((245, 245, 245)), (eye,)))
            parts.append((near + 0.004, (eye,), 0.11 * radius, paint((35, 30, 35)), (eye,)))
    if facing['nose'] > FACING:
        parts.append((near + 0.005, ('nose',), 0.13 * radius, shade(skin, 0.75), ('nose',)))
    return parts
