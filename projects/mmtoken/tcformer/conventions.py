"""Names that other releases give to TCFormer's parameters."""

from collections.abc import Collection

from ..common.conventions import Release

_CTM = r'ctm1\.score\.'
RELEASES = (
    Release('TCFormer (mmpose 0.x)', (r'patch_embed1\.projection\.', _CTM)),
    Release('TCFormer (classification)', (r'patch_embed1\.proj\.', _CTM, r'head\.')),
    Release('TCFormer', (r'patch_embed1\.proj\.', _CTM)),
)


def mmpose_0x(keys: Collection[str]) -> dict[str, str]:
    """Mmpose 0.x calls the convolution of the patch embedding ``projection``."""
    return {
        key: key.replace('projection', 'proj')
        for key in keys
        if key.startswith('patch_embed1.projection.')
    }
