"""Random articulated bodies in three dimensions.

Body frame: x to the person's left, y up, z forward. Camera frame: x right, y up, z to the viewer.
Lengths are in body heights (a standing adult is 1 tall), angles in degrees.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIDES = {'left': 1, 'right': -1}  # sign of x in the body frame
JOINTS = (
    'nose',
    *(f'{side}_{name}' for name in ('eye', 'ear', 'shoulder', 'elbow', 'wrist') for side in SIDES),
    *(f'{side}_{name}' for name in ('hip', 'knee', 'ankle') for side in SIDES),
)
HEAD_RADIUS = 0.085
# mean angles, outward and forward from hanging, of the upper arm and of the forearm; probability
ARMS = (
    ((14, 2, 11, 20), 0.36),
    ((46, -12, -48, 10), 0.12),  # hand on the hip
    ((15, 25, -8, 135), 0.1),  # on the phone
    ((142, 0, 165, 0), 0.13),  # raised
    ((88, 8, 165, -10), 0.12),  # waving
    ((80, 5, 80, 10), 0.1),  # to the side
    ((10, 70, 5, 90), 0.07),  # to the front
)
# the same of the thighs and shins of both legs
LEGS = {
    'stand': ((5, 2, 5, -2), (5, 2, 5, -2), 0.32),
    'wide': ((20, 3, 20, -3), (20, 3, 20, -3), 0.14),
    'stride': ((3, 29, 3, 14), (3, -18, 3, -44), 0.26),
    'lift': ((4, 2, 4, -2), (12, 65, 8, -14), 0.1),
    'squat': ((24, 68, 12, -30), (24, 68, 12, -30), 0.05),
    'sit': ((9, 83, 6, -3), (9, 83, 6, -3), 0.13),
}
VIEWS = ((0, 38), (38, 78), (145, 180))  # turns about the vertical; 0 faces the viewer


def sample_pose(rng: Generator) -> tuple[str, dict[str, NDArray]]:
    """Draw a name in LEGS and points ``(3,)`` of a body in the camera frame.

    They are the joints, ``face``, ``head``, ``neck``, ``pelvis``, and ``hand`` and ``toe`` of each
    side. The lower toe has y = 0.02.
    """
    legs = str(rng.choice(list(LEGS), p=[leg[2] for leg in LEGS.values()]))
    width, lead = rng.uniform(0.92, 1.1), rng.choice([-1, 1])
    torso = rotation(0, 0, rng.normal(0, 7)) @ rotation(rng.normal(4, 7), 0, 0)
    head = torso @ rotation(0, rng.normal(0, 16), 0) @ rotation(rng.normal(2, 7), 0, 0)
    points = {'pelvis': np.zeros(3), 'neck': torso @ (0, 0.325, 0)}
    points['head'] = skull = points['neck'] + head @ (0, 0.115, 0.012)
    points['face'] = skull + HEAD_RADIUS * head @ (0, -0.15, 0.28)
    points['nose'] = skull + HEAD_RADIUS * head @ (0, -0.12, 1.08)
    for side, sign in SIDES.items():
        leg = LEGS[legs][int(sign == lead)] + rng.normal(0, 4, 4)
        arm = ARMS[rng.choice(len(ARMS), p=[p for _, p in ARMS])][0] + rng.normal(0, 9, 4)
        if legs == 'stride':  # the arms swing against the legs
            arm = ARMS[0][0] + np.array([0, 1, 0, 1.4]) * sign * lead * rng.uniform(10, 35)
        points[f'{side}_eye'] = skull + HEAD_RADIUS * head @ (sign * 0.37, 0.16, 0.9)
        points[f'{side}_ear'] = skull + HEAD_RADIUS * head @ (sign, -0.02, -0.08)
        fore, shin = torso @ direction(sign, *arm[2:]), direction(sign, *leg[2:])
        points[f'{side}_shoulder'] = at = torso @ (sign * 0.112 * width, 0.295, 0)
        points[f'{side}_elbow'] = at = at + 0.165 * torso @ direction(sign, *arm[:2])
        points[f'{side}_wrist'] = at + 0.145 * fore
        points[f'{side}_hand'] = at + 0.18 * fore
        points[f'{side}_hip'] = at = np.array([sign * 0.056 * width, 0, 0])
        points[f'{side}_knee'] = at = at + 0.245 * direction(sign, *leg[:2])
        points[f'{side}_ankle'] = at + 0.23 * shin
        points[f'{side}_toe'] = at + 0.23 * shin + 0.08 * direction(sign, leg[2] + 8, leg[3] + 72)
    low, high = (15, 70) if legs in ('sit', 'squat') else VIEWS[rng.choice(3, p=[0.52, 0.26, 0.22])]
    yaw = rng.choice([-1, 1]) * rng.uniform(low, high)
    leans = legs in ('wide', 'lift') and rng.random() < 0.35  # falls, dances, jumps
    roll = rng.uniform(-32, 32) if leans else rng.normal(0, 2.5)
    to_camera = rotation(0, 0, roll) @ rotation(rng.uniform(4, 12), 0, 0) @ rotation(0, yaw, 0)
    points = {name: to_camera @ at for name, at in points.items()}
    lowest = min(points[f'{side}_toe'][1] for side in SIDES)
    return legs, {name: at - (0, lowest - 0.02, 0) for name, at in points.items()}


def direction(sign: int, outward: float, forward: float) -> NDArray:
    """Unit vector ``(3,)`` of a hanging limb lifted outward, then swung forward."""
    o, f = np.deg2rad([outward, forward])
    return np.array([sign * np.sin(o), -np.cos(o) * np.cos(f), np.cos(o) * np.sin(f)])


def rotation(x: float, y: float, z: float) -> NDArray:
    """Rotation matrix ``(3, 3)`` about the axis (x, y, z) by its length."""
    return cv2.Rodrigues(np.deg2rad([x, y, z]))[0]
