"""Mask R-CNN with mmdet's Swin-B on COCO, 12 epochs: what STViT-R-Base is compared with.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './mask-rcnn_swin-small_fpn_1x_coco.py'

model = dict(
    backbone=dict(embed_dims=128, num_heads=[4, 8, 16, 32], drop_path_rate=0.3),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
