"""PaCa-ViT-Base on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './paca-vit-tiny_8xb128_in1k.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5),
    head=dict(in_channels=512),
)

# the authors' code asks for it in a comment
optim_wrapper = dict(clip_grad=dict(_delete_=True, max_norm=1.0))
