"""Cascade Mask R-CNN with MaxViT-Small and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './cascade-mask-rcnn_maxvit-tiny_fpn_1x_coco.py'

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.3), neck=dict(in_channels=[96, 192, 384, 768])
)
