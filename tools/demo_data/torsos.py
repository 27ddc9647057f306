"""Trunk and neck; the front of a shirt differs from its back."""

import numpy as np
from numpy.typing import NDArray

from .bodies import Body, Look, Part
from .canvas import Shape, darker
from .limbs import tube
from .outlines import capsule, ellipse, hull_of_discs
from .poses import SIDES


def torso(body: Body, look: Look) -> Part:
    """Return shirt and hips; the front has a collar and buttons, the back has none."""
    scale = body.height * (0.4 + 0.6 * look.girth)
    at = body.at
    shoulders = [at['left_shoulder'], at['right_shoulder']]
    hips = [at['left_hip'], at['right_hip']]
    waist = 0.25 * at['chest'] + 0.75 * at['pelvis']
    hem = [0.88 * hip + 0.12 * at['chest'] for hip in hips]

    def shirt(inset: float) -> NDArray:
        centres = [*shoulders, at['chest'], waist, *hem]
        return hull_of_discs(
            centres, [(r - inset) * scale for r in (0.036, 0.036, 0.076, 0.062, 0.047, 0.047)]
        )

    pelvis = hull_of_discs([*hips, at['pelvis']], [0.053 * scale, 0.053 * scale, 0.068 * scale])
    shapes = [
        Shape(pelvis, darker(look.trousers, 0.38)),
        Shape(0.9 * pelvis + 0.1 * at['pelvis'], look.trousers, False),
        Shape(shirt(0), darker(look.shirt, 0.38)),
        Shape(shirt(0.007), look.shirt, False),
        *pattern(body, look, scale),
    ]
    if body.pose.torso_axes[2, 2] > 0.1:  # the chest faces the viewer
        shapes += front_of_shirt(body, look, scale)
    return Part('torso', body.near['chest'] / 2, shapes)


def pattern(body: Body, look: Look, scale: float) -> list[Shape]:
    """Return stripes across the shirt."""
    levels = {'plain': (), 'stripes': (0.2, 0.4, 0.6, 0.8), 'band': (0.45,)}[look.pattern]
    thick = 0.014 if look.pattern == 'stripes' else 0.035
    at, stripes = body.at, []
    for level in levels:
        ends = [(1 - level) * at[f'{side}_shoulder'] + level * at[f'{side}_hip'] for side in SIDES]
        middle, half = (ends[0] + ends[1]) / 2, (ends[0] - ends[1]) / 2
        # the round ends stay inside the shirt
        half = half * (1 + (0.032 - thick) * scale / max(float(np.linalg.norm(half)), 1e-6))
        stripes.append(
            Shape(
                capsule(middle - half, middle + half, thick * scale, thick * scale),
                look.accent,
                False,
            )
        )
    return stripes


def front_of_shirt(body: Body, look: Look, scale: float) -> list[Shape]:
    """Return an open collar and a row of buttons on the side that faces forward."""
    left, up, forward = (body.pose.torso_axes[:2] * [[1], [-1]]).T  # in the image
    neck = body.at['neck'] + 0.025 * scale * forward
    collar = np.array(
        [neck - 0.05 * scale * left, neck + 0.05 * scale * left, neck - 0.09 * scale * up]
    )
    chest = body.at['neck'] + 0.06 * scale * forward
    buttons = [
        Shape(ellipse(chest - k * scale * up, 0.008 * scale), darker(look.shirt, 0.55), False)
        for k in (0.13, 0.185, 0.24)
    ]
    return [Shape(collar, look.skin, False), *buttons]


def neck(body: Body, look: Look) -> Part:
    """Return the neck, behind shirt and head."""
    near = min(body.near['neck'], body.near['chest'] / 2)
    colour = darker(look.skin, 0.15)
    p, q = body.at['neck'] + (0, 0.015 * body.height), body.at['head']
    return Part('neck', near - 0.005, tube(p, q, 0.034 * body.height, 0.032 * body.height, colour))
