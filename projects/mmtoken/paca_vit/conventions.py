"""How released weights of PaCa-ViT are recognised; their names are ours."""

from ..common.conventions import Release

_KINDS = {
    'PaCa-ViT with a teacher': r'paca_teacher\.',
    'PaCa-ViT': r'stage1\.0\.attn\.clustering\.',
}
RELEASES = tuple(
    Release(name + where, (r'patch_embed\.proj\.0\.', sign, *head))
    for name, sign in _KINDS.items()
    for where, head in ((' (classification)', (r'head\.',)), ('', ()))
)
