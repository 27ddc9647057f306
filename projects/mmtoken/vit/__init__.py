"""Plain vision transformers: ViT, DeiT, MAE, CLIP, DINOv2, DINOv3, EVA-02 and ViTDet."""

from .plain_vit import PlainViT
from .simple_fpn import SimpleFPN

__all__ = ['PlainViT', 'SimpleFPN']
