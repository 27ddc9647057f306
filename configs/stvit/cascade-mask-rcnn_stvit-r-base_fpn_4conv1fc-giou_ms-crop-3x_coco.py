"""Cascade Mask R-CNN with STViT-R-Base and FPN on COCO, 36 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './cascade-mask-rcnn_stvit-r-small_fpn_4conv1fc-giou_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[128, 256, 512, 1024])
)
