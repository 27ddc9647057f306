"""Heads: hair, ears and a face, as far as they point to the viewer."""

import numpy as np
from numpy.typing import NDArray

from .bodies import Body, Look, Part
from .canvas import Shape, darker, mix
from .outlines import CIRCLE, capsule, convex_hull, ellipse
from .poses import HEAD_RADIUS, SIDES

FACE_DEPTH = 0.25  # a facial feature is drawn if it points to the viewer by this cosine at least


def head(body: Body, look: Look) -> list[Part]:
    """Return ears, hair and face; what points away from the viewer is left out."""
    radius = HEAD_RADIUS * body.height
    centre, near = body.at['head'], body.near['head'] + 0.06
    outline = ellipse(centre, radius * 0.96, radius * 1.06)
    skull = [
        Shape(outline, darker(look.hair, 0.35)),
        Shape(0.9 * outline + 0.1 * centre, look.hair, False),
    ]
    parts = [Part('hair', near, skull)]
    visage = face(body, look, radius)
    if visage:
        parts.append(Part('face', near + 1e-3, visage))
    for side in SIDES:
        ear = ellipse(body.at[f'{side}_ear'], 0.2 * radius, 0.27 * radius)
        order = (
            near - 1e-3
            if body.near[f'{side}_ear'] < body.near['head'] + 0.25 * HEAD_RADIUS
            else near + 2e-3
        )
        inner = Shape(0.5 * ear + 0.5 * body.at[f'{side}_ear'], darker(look.skin, 0.22), False)
        parts.append(Part(f'{side}_ear', order, [Shape(ear, darker(look.skin, 0.08)), inner]))
    return parts + long_hair(body, look, radius, near)


def long_hair(body: Body, look: Look, radius: float, near: float) -> list[Part]:
    """Return hair on the shoulders or a bun, behind the head or in front of it seen from behind."""
    backward = -body.pose.head_axes[:, 2]
    centre = body.at['head']
    order = near - 2e-3 if backward[2] < 0.3 else near + 3e-3
    shift = np.array([backward[0], -backward[1]]) * radius
    if look.hair_length == 'long':
        end = 0.75 * body.at['neck'] + 0.25 * centre + 0.8 * shift
        colour = darker(look.hair, 0.12)
        strands = capsule(centre + 0.35 * shift, end, 0.85 * radius, 0.8 * radius)
        behind = min(order, body.near['chest'] / 2 - 0.02) if backward[2] < 0.3 else order
        return [Part('hair', behind, [Shape(strands, colour)])]
    if look.hair_length == 'bun':
        up = body.pose.head_axes[:2, 1] * (1, -1)
        bun = ellipse(centre + 0.9 * radius * up + 0.7 * shift, 0.42 * radius)
        return [Part('hair', order, [Shape(bun, darker(look.hair, 0.2))])]
    return []


def face(body: Body, look: Look, radius: float) -> list[Shape]:
    """Return the skin of the face, eyes, brows, nose and mouth; empty from behind."""
    outline = face_outline(body.pose.head_axes, np.array([0, -0.32, 0.95]), np.deg2rad(72))
    if outline is None:
        return []
    centre = body.at['head']
    shapes = [Shape(outline * (0.93, 1.03) * radius + centre, look.skin)]
    up = body.pose.head_axes[:2, 1] * (1, -1)
    for side in SIDES:
        if body.near[f'{side}_eye'] - body.near['head'] > FACE_DEPTH * HEAD_RADIUS:
            eye = body.at[f'{side}_eye']
            squint = 0.35 + 0.65 * (body.near[f'{side}_eye'] - body.near['head']) / HEAD_RADIUS
            shapes += [
                Shape(ellipse(eye, 0.19 * squint * radius, 0.2 * radius), (250, 250, 250)),
                Shape(ellipse(eye, 0.12 * squint * radius, 0.135 * radius), (35, 30, 35)),
                *brow(eye + 0.3 * radius * up, body.pose.head_axes, radius, look),
            ]
    if body.near['nose'] - body.near['head'] > FACE_DEPTH * HEAD_RADIUS:
        nose, bridge = (
            body.at['nose'],
            centre + 0.8 * (body.at['nose'] - centre) + 0.22 * radius * up,
        )
        shapes.append(
            Shape(capsule(bridge, nose, 0.07 * radius, 0.14 * radius), darker(look.skin, 0.22))
        )
    return shapes + mouth(body, look, radius)


def brow(at: NDArray, axes: NDArray, radius: float, look: Look) -> list[Shape]:
    """Return an eyebrow along the head's left-right axis."""
    along = axes[:2, 0] * (1, -1) * 0.17 * radius
    return [
        Shape(capsule(at - along, at + along, 0.05 * radius, 0.05 * radius), darker(look.hair, 0.2))
    ]


def mouth(body: Body, look: Look, radius: float) -> list[Shape]:
    """Return a smile, if it points to the viewer."""
    points = body.pose.head_axes @ np.array(
        [[-0.3, 0, 0.3], [-0.45, -0.56, -0.45], [0.8, 0.85, 0.8]]
    )
    if points[2].min() < 0.1:
        return []
    left, low, right = (points[:2] * np.array([[1], [-1]])).T * radius + body.at['head']
    lips = mix(look.skin, (150, 30, 40), 0.6)
    return [Shape(np.array([left, low + 0.06 * radius, right, low]), lips)]


def face_outline(axes: NDArray, centre: NDArray, reach: float) -> NDArray | None:
    """Return the visible outline ``(N, 2)`` of a cap of the unit ball, or None if it is behind.

    The cap has the unit direction ``centre`` in the frame ``axes`` and ``reach`` radians around
    it. Its outline consists of the visible part of its rim and of the ball's edge inside it.
    """
    direction = axes @ (centre / np.linalg.norm(centre))
    across = np.linalg.svd(direction[None])[2][1:]  # 2 3, orthonormal to the direction
    rim = np.cos(reach) * direction + np.sin(reach) * (CIRCLE @ across)  # 20 3
    edge = np.concatenate([CIRCLE, np.zeros((len(CIRCLE), 1))], axis=1)
    points = np.concatenate([rim[rim[:, 2] >= 0], edge[edge @ direction >= np.cos(reach)]])
    if len(points) < 3:
        return None
    return convex_hull(points[:, :2] * (1, -1))
