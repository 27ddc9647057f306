"""A person: the parts in painting order, and which of them show a joint."""

from .bodies import Body, Look, Part
from .heads import FACE_DEPTH, head
from .limbs import arm, leg
from .poses import HEAD_RADIUS, SIDES
from .torsos import neck, torso

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
