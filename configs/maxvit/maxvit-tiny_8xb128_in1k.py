"""MaxViT-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's Swin recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

This is not the recipe of the paper; see the README.
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(_delete_=True, type='MaxViT', arch='tiny', out_indices=(3,), drop_path_rate=0.2),
    neck=dict(_delete_=True, type='MaxViTPreLogits', embed_dims=512),
    head=dict(in_channels=512),
)
