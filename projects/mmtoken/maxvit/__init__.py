"""MaxViT (ECCV 2022): convolution, attention in blocks and attention on a grid, in every block."""

from .maxvit import MaxViT

__all__ = ['MaxViT']
