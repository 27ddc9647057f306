"""The smallest stub, found by the contracts."""

from . import backbone  # noqa: F401  registers it

BACKBONES = [dict(type='StubBackbone', arch='tiny')]
