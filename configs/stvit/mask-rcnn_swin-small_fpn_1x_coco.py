"""Mask R-CNN with mmdet's Swin-S on COCO, 12 epochs: what STViT-R-Small is compared with.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

From random weights: the host's config would download those of Swin-T.
"""

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

model = dict(backbone=dict(depths=[2, 2, 18, 2], init_cfg=None))
