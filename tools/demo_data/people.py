"""Dress a pose and turn it into painted parts, the farthest first."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .canvas import Colour, Shape, darker, lighter, mix
from .outlines import CIRCLE, capsule, ellipse, hull_of_discs
from .poses import HEAD_RADIUS, SIDES, Pose

SKINS = (
    (255, 219, 190),
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

# a joint is seen if its pixel was last painted by one of these parts of the same person
CARRIERS = {
    'nose': ('face',),
    'eye': ('face',),
    'ear': ('ear',),
    'shoulder': ('upper_arm',),
    'elbow': ('upper_arm', 'forearm'),
    'wrist': ('forearm',),
    'hip': ('thigh',),
    'knee': ('thigh', 'shin'),
    'ankle': ('shin', 'foot'),
}
FACE_DEPTH = 0.25  # a facial feature is seen if it points to the viewer by this cosine at least


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
    """A pose on the image: ``at`` holds its points ``(2,)`` in pixels, ``near (1,)`` to the viewer.

    ``height`` is the length of the standing body in pixels.
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


def body_parts(body: Body, look: Look) -> list[Part]:
    """Return everything that is to be painted, in painting order."""
    parts = [torso(body, look), neck(body, look), *head(body, look)]
    for side in SIDES:
        parts += [*leg(body, look, side), *arm(body, look, side)]
    return sorted(parts, key=lambda part: part.nearness)


def seen_parts(body: Body, joint: str) -> tuple[str, ...]:
    """Return the names of the parts that show a joint; none if it is on the far side."""
    side, _, kind = joint.rpartition('_')
    names = CARRIERS[kind]
    if names == ('face',):
        from_head = body.near[joint] - body.near['head']
        return names if from_head > FACE_DEPTH * HEAD_RADIUS else ()
    names = tuple(f'{side}_{name}' for name in names)
    if kind in ('shoulder', 'hip'):
        middle = body.near['neck' if kind == 'shoulder' else 'pelvis']
        return (*names, 'torso') if body.near[joint] - middle > -0.06 else names
    return names


def limb(body: Body, a: str, b: str, radii: tuple[float, float], colour: Colour) -> list[Shape]:
    """Return a limb from point a to point b with a dark rim and a light ridge."""
    p, q, (rp, rq) = body.at[a], body.at[b], radii
    return tube(p, q, rp * body.height, rq * body.height, colour)


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
            centres, [(r - inset) * scale for r in (0.036, 0.036, 0.078, 0.07, 0.05, 0.05)]
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
        ends = []
        for side in SIDES:
            edge = (1 - level) * at[f'{side}_shoulder'] + level * at[f'{side}_hip']
            ends.append(edge)
        middle = (ends[0] + ends[1]) / 2
        half = (ends[0] - ends[1]) / 2
        grow = 1 + 0.012 * scale / max(float(np.linalg.norm(half)), 1e-6)
        stripes.append(
            Shape(
                capsule(middle - half * grow, middle + half * grow, thick * scale, thick * scale),
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
    for side, sign in SIDES.items():
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
    return hull_of_discs(list(points[:, :2] * (1, -1)), [1e-3] * len(points))
