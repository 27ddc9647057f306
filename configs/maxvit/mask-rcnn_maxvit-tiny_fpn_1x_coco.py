"""Mask R-CNN with MaxViT-Tiny and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The authors' detectors were trained elsewhere and are not comparable: this is the host's recipe for
Swin-T. To start from ImageNet weights (timm's maxvit_tiny_tf_224), download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

# drop path as on ImageNet
model = dict(
    backbone=dict(_delete_=True, type='MaxViT', arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# two images per GPU are too few for the batch norms of the MBConvs
sync_bn = 'torch'
