"""MaxViT-Small on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's Swin recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch
"""

_base_ = './maxvit-tiny_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.3),
    neck=dict(embed_dims=768),
    head=dict(in_channels=768),
)
