"""MaxViT-Base on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's Swin recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch
"""

_base_ = './maxvit-small_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.4))
