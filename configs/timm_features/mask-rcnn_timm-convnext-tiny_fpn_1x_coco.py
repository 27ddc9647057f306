"""Mask R-CNN with timm's ConvNeXt-Tiny and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The host's recipe for Swin-T. ImageNet weights: timm downloads them with --cfg-options model.backbone.pretrained=True;
from a file: model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

model = dict(
    backbone=dict(_delete_=True, type='TimmFeatures', model='convnext_tiny', drop_path_rate=0.2)
)
