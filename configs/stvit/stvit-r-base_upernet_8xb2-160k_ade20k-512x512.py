"""STViT-R-Base with UPerNet on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './stvit-r-tiny_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
