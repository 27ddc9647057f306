"""STViT and STViT-R (CVPR 2023): a few semantic tokens per window, with or without recovery."""

from .stvit_deit import STViTDeiT
from .stvit_r import STViTR
from .stvit_swin import STViTSwin

__all__ = ['STViTDeiT', 'STViTR', 'STViTSwin']
