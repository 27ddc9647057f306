"""How released weights of STViT-R are recognised; their names are ours."""

from ..common.conventions import Release

_SEMANTIC = r'layers\.2\.blocks\.1\.attn\.kv\.'
RELEASES = (
    Release('STViT-R (classification)', (_SEMANTIC, r'norm\.')),
    Release('STViT-R (detection)', (_SEMANTIC, r'norm\d\.')),
)
