"""Sample an articulated body in three dimensions: the 17 COCO joints and a few helper points.

Body frame: x to the person's left, y up, z forward. Camera frame: x right, y up, z to the viewer.
Lengths are in body heights (a standing adult is 1 tall), angles in degrees.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

JOINTS = (
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
)
SIDES = {'left': 1, 'right': -1}  # sign of x in the body frame

HEAD_RADIUS = 0.085
# on the head, in head radii; the nose sticks out and the ears stand off
FACE = {
    'nose': (0.0, -0.12, 1.08),
    'left_eye': (0.37, 0.16, 0.9),
    'right_eye': (-0.37, 0.16, 0.9),
    'left_ear': (1.0, -0.02, -0.08),
    'right_ear': (-1.0, -0.02, -0.08),
}

# how an arm is held: ranges of (outward, forward, elbow) and where the forearm turns to
ARM_STYLES = {
    'hang': ((6, 24), (-15, 20), (4, 35), 'forward'),
    'hip': ((38, 55), (-20, 0), (85, 105), 'inward'),
    'phone': ((6, 22), (15, 35), (90, 125), 'forward'),
    'raise': ((120, 165), (-5, 15), (0, 45), 'inward'),
    'wave': ((70, 105), (0, 15), (55, 110), 'up'),
    'side': ((65, 98), (-10, 15), (0, 30), 'forward'),
    'reach': ((2, 18), (45, 95), (0, 40), 'up'),
}
ARM_WEIGHTS = (0.36, 0.12, 0.1, 0.13, 0.12, 0.1, 0.07)

# how the legs stand: ranges of (outward, forward, knee) for one leg and the other
LEG_STYLES = {
    'stand': (((2, 9), (-4, 7), (0, 8)), ((2, 9), (-4, 7), (0, 8))),
    'wide': (((14, 27), (-4, 8), (0, 14)), ((14, 27), (-4, 8), (0, 14))),
    'stride': (((1, 5), (20, 38), (4, 24)), ((1, 5), (-28, -12), (10, 45))),
    'lift': (((1, 6), (-3, 5), (0, 6)), ((4, 20), (45, 85), (60, 100))),
    'squat': (((14, 34), (55, 80), (85, 115)), ((14, 34), (55, 80), (85, 115))),
    'sit': (((3, 15), (76, 90), (76, 95)), ((3, 15), (76, 90), (76, 95))),
}
LEG_WEIGHTS = (0.32, 0.14, 0.26, 0.1, 0.05, 0.13)


class Pose(NamedTuple):
    """A body in the camera frame.

    ``points`` maps the joints and ``neck``, ``head``, ``pelvis``, ``chest``, ``left_hand``,
    ``left_heel``, ``left_toe`` (and right) to positions ``(3,)``; the lowest point of the feet has
    y = 0 and the pelvis x = 0. ``head_axes (3, 3)`` has the head's left, up and forward as columns;
    ``torso_axes`` likewise. ``legs`` names the leg style.
    """

    points: dict[str, NDArray]
    head_axes: NDArray
    torso_axes: NDArray
    legs: str


def sample_pose(rng: Generator) -> Pose:
    """Draw a body: how it stands, where it looks, and from where it is seen."""
    legs = rng.choice(list(LEG_STYLES), p=LEG_WEIGHTS)
    build = rng.uniform(0.92, 1.1)  # width of shoulders and hips
    to_camera = rotation_z(sample_roll(rng, legs)) @ rotation_x(rng.uniform(4, 12))
    to_camera = to_camera @ rotation_y(sample_yaw(rng, legs))
    torso = rotation_z(rng.normal(0, 7)) @ rotation_x(rng.normal(4, 7))
    head = torso @ rotation_y(rng.normal(0, 16)) @ rotation_x(rng.normal(2, 7))
    swing = int(rng.choice([-1, 1]))  # which arm of a walker is in front
    points = torso_points(torso, build) | leg_points(rng, legs, build, swing)
    points['head'] = points['neck'] + head @ (0, 0.115, 0.012)
    points |= arm_points(rng, torso, points, swing if legs == 'stride' else 0)
    points |= {k: points['head'] + HEAD_RADIUS * head @ v for k, v in FACE.items()}
    points = {k: to_camera @ v for k, v in points.items()}
    ground = min(points[k][1] for k in points if k.endswith(('toe', 'heel')))
    return Pose(
        {k: v - (0, ground - 0.02, 0) for k, v in points.items()},
        to_camera @ head,
        to_camera @ torso,
        str(legs),
    )


def sample_yaw(rng: Generator, legs: str) -> float:
    """Draw the turn about the vertical: 0 faces the viewer, 90 faces the right of the image."""
    side = rng.choice([-1, 1])
    if legs in ('sit', 'squat'):
        return side * rng.uniform(15, 70)
    view = rng.choice(['front', 'oblique', 'back'], p=[0.52, 0.26, 0.22])
    spread = {'front': (0, 38), 'oblique': (38, 78), 'back': (145, 180)}[view]
    return side * rng.uniform(*spread)


def sample_roll(rng: Generator, legs: str) -> float:
    """Draw the turn in the image plane; a few people fall, dance or jump."""
    if legs in ('wide', 'lift') and rng.random() < 0.35:
        return rng.uniform(-32, 32)
    return rng.normal(0, 2.5)


def torso_points(torso: NDArray, build: float) -> dict[str, NDArray]:
    """Return pelvis, hips, chest, neck and shoulders in the body frame, pelvis at the origin."""
    points = {
        'pelvis': np.zeros(3),
        'chest': torso @ (0, 0.2, 0.005),
        'neck': torso @ (0, 0.325, 0),
    }
    for side, sign in SIDES.items():
        points[f'{side}_hip'] = np.array([sign * 0.056 * build, 0, 0])
        points[f'{side}_shoulder'] = torso @ (sign * 0.112 * build, 0.295, 0)
    return points


def arm_points(
    rng: Generator, torso: NDArray, points: dict[str, NDArray], swing: int
) -> dict[str, NDArray]:
    """Return elbows, wrists and hands; a walker's arms swing, the left one forward at 1."""
    arms = {}
    for side, sign in SIDES.items():
        name = 'hang' if swing else rng.choice(list(ARM_STYLES), p=ARM_WEIGHTS)
        outward, forward, elbow, turn = ARM_STYLES[name]
        to = {'forward': (-0.2 * sign, 0, 1), 'inward': (-sign, 0, 0.25), 'up': (0, 1, 0.1)}[turn]
        angles = [rng.uniform(*span) for span in (outward, forward, elbow)]
        if swing:
            angles[1:] = swing * sign * rng.uniform(10, 40), rng.uniform(10, 60)
        upper = limb_direction(sign, angles[0], angles[1])
        lower = bend(upper, np.array(to, float), angles[2])
        upper, lower = torso @ upper, torso @ lower
        arms[f'{side}_elbow'] = points[f'{side}_shoulder'] + 0.165 * upper
        arms[f'{side}_wrist'] = arms[f'{side}_elbow'] + 0.145 * lower
        arms[f'{side}_hand'] = arms[f'{side}_wrist'] + 0.035 * lower
    return arms


def leg_points(rng: Generator, legs: str, build: float, swing: int) -> dict[str, NDArray]:
    """Return knees, ankles, heels and toes in the body frame; at swing 1 the right leg leads."""
    points = {}
    styles = LEG_STYLES[legs]
    for (side, sign), spans in zip(SIDES.items(), styles[::-swing]):
        outward, forward, knee = (rng.uniform(*span) for span in spans)
        thigh = limb_direction(sign, outward, forward)
        shin = bend(thigh, np.array([0, -0.3, -1.0]), knee)
        points[f'{side}_knee'] = np.array([sign * 0.056 * build, 0, 0]) + 0.245 * thigh
        points[f'{side}_ankle'] = points[f'{side}_knee'] + 0.23 * shin
        foot = bend(shin, np.array([sign * 0.3, 0, 1.0]), 90)
        points[f'{side}_toe'] = points[f'{side}_ankle'] + 0.075 * foot + 0.028 * shin
        points[f'{side}_heel'] = points[f'{side}_ankle'] - 0.012 * foot + 0.026 * shin
    return points


def limb_direction(sign: int, outward: float, forward: float) -> NDArray:
    """Return the unit vector ``(3,)`` of a hanging limb lifted outward, then swung forward."""
    o, f = np.deg2rad([outward, forward])
    return np.array([sign * np.sin(o), -np.cos(o) * np.cos(f), np.cos(o) * np.sin(f)])


def bend(direction: NDArray, to: NDArray, angle: float) -> NDArray:
    """Turn a unit vector ``(3,)`` by ``angle`` towards ``to``."""
    across = to - (to @ direction) * direction
    across /= max(np.linalg.norm(across), 1e-6)
    return np.cos(np.deg2rad(angle)) * direction + np.sin(np.deg2rad(angle)) * across


def rotation_x(angle: float) -> NDArray:
    """Return the rotation ``(3, 3)`` that nods: y turns to z."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(angle: float) -> NDArray:
    """Return the rotation ``(3, 3)`` about the vertical: z turns to x."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rotation_z(angle: float) -> NDArray:
    """Return the rotation ``(3, 3)`` in the image plane: x turns to y."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
