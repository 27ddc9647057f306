"""STViT and STViT-R (CVPR 2023): a few semantic tokens per window, with or without recovery."""

from .backbone import STViTR
from .stvit_deit import STViTDeiT
from .stvit_swin import STViTSwin

__all__ = ['STViTDeiT', 'STViTR', 'STViTSwin']
