"""MaxViT (ECCV 2022): convolution, attention in blocks and attention on a grid, in every block."""

from .maxvit import MaxViT
from .pre_logits import MaxViTPreLogits

__all__ = ['MaxViT', 'MaxViTPreLogits']
