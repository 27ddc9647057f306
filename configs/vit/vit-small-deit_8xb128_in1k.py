"""Plain ViT-Small on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's DeiT recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch
"""

_base_ = './vit-tiny-deit_8xb128_in1k.py'

model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
