"""STViT and STViT-R (CVPR 2023): a few semantic tokens per window, with or without recovery."""

from .backbone import STViTR

__all__ = ['STViTR']
