"""Names that other releases give to TCFormer's parameters."""

from collections.abc import Collection


def mmpose_0x(keys: Collection[str]) -> dict[str, str]:
    """Mmpose 0.x calls the convolution of the patch embedding ``projection``."""
    return {
        key: key.replace('projection', 'proj')
        for key in keys
        if key.startswith('patch_embed1.projection.')
    }
