"""Arms and legs: tapered tubes, clothed down to a sleeve's or a trouser leg's end."""

import numpy as np
from numpy.typing import NDArray

from .bodies import Body, Look, Part
from .canvas import Colour, Shape, darker, lighter
from .outlines import capsule


def tube(p: NDArray, q: NDArray, rp: float, rq: float, colour: Colour) -> list[Shape]:
    """Return a rounded limb; radii in pixels."""
    light = np.array([-0.28, -0.28])
    return [
        Shape(capsule(p, q, rp, rq), darker(colour, 0.38)),
        Shape(capsule(p, q, 0.82 * rp, 0.82 * rq), colour, False),
        Shape(
            capsule(p + light * rp, q + light * rq, 0.38 * rp, 0.38 * rq),
            lighter(colour, 0.22),
            False,
        ),
    ]


def covered(
    p: NDArray, q: NDArray, rp: float, rq: float, share: float, cloth: Colour, skin: Colour
) -> list[Shape]:
    """Return a limb whose first ``share`` is clothed, the rest bare."""
    share = min(max(share, 0.0), 1.0)
    bare = tube(p, q, rp, rq, skin) if share < 1 else []
    if share == 0:
        return bare
    end, rend = p + share * (q - p), rp + share * (rq - rp)
    return bare + tube(p, end, rp * 1.12, rend * 1.15, cloth)


def arm(body: Body, look: Look, side: str) -> list[Part]:
    """Return upper arm and forearm with the hand."""
    scale = body.height * look.girth
    shoulder, elbow, wrist, hand = (
        body.at[f'{side}_{name}'] for name in ('shoulder', 'elbow', 'wrist', 'hand')
    )
    near = [body.near[f'{side}_{name}'] for name in ('shoulder', 'elbow', 'hand')]
    upper = covered(
        shoulder, elbow, 0.034 * scale, 0.027 * scale, look.sleeve, look.shirt, look.skin
    )
    fore = tube(wrist, hand, 0.02 * scale, 0.026 * scale, look.skin)
    fore += covered(
        elbow, wrist, 0.027 * scale, 0.02 * scale, look.sleeve - 1, look.shirt, look.skin
    )
    bias = 0.045 if near[1] + near[2] > 2 * body.near['chest'] - 0.06 else -0.04
    if near[2] + 0.04 > near[0] and (look.sleeve == 0 or look.sleeve > 1):
        fore += knuckle(elbow, shoulder, 0.027 * scale, look.shirt if look.sleeve else look.skin)
    return [
        Part(f'{side}_upper_arm', (near[0] + near[1]) / 2 + bias, upper),
        Part(f'{side}_forearm', (near[1] + near[2]) / 2 + bias + 0.02, fore),
    ]


def knuckle(joint: NDArray, to: NDArray, radius: float, colour: Colour) -> list[Shape]:
    """Return paint over the rim between two pieces of a limb of one colour."""
    end = joint + 0.18 * (to - joint)
    return [Shape(capsule(joint, end, 0.84 * radius, 0.84 * radius), colour, False)]


def leg(body: Body, look: Look, side: str) -> list[Part]:
    """Return foot, shin and thigh."""
    scale = body.height * look.girth
    hip, knee, ankle, toe, heel = (
        body.at[f'{side}_{name}'] for name in ('hip', 'knee', 'ankle', 'toe', 'heel')
    )
    near = [body.near[f'{side}_{name}'] for name in ('hip', 'knee', 'ankle', 'toe')]
    foot = tube(heel, toe, 0.027 * scale, 0.021 * scale, look.shoes)
    shin = covered(
        knee, ankle, 0.038 * scale, 0.025 * scale, look.trouser_leg - 1, look.trousers, look.skin
    )
    thigh = covered(
        hip, knee, 0.055 * scale, 0.039 * scale, look.trouser_leg, look.trousers, look.skin
    )
    if near[2] + 0.01 > near[0]:
        one = look.trousers if look.trouser_leg > 1 else look.skin
        shin += knuckle(knee, hip, 0.038 * scale, one)
    return [
        Part(f'{side}_foot', (near[2] + near[3]) / 2 - 0.03, foot),
        Part(f'{side}_shin', (near[1] + near[2]) / 2 - 0.02, shin),
        Part(f'{side}_thigh', (near[0] + near[1]) / 2 - 0.025, thigh),
    ]
