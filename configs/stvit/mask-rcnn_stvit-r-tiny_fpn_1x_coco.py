"""Mask R-CNN with STViT-R-Tiny and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The authors published no Mask R-CNN: this is the host's recipe for Swin-T. ImageNet weights: see the
config of the cascade.
"""

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

# drop path as the host has it for Swin-T
model = dict(backbone=dict(_delete_=True, type='STViTR', arch='tiny', drop_path_rate=0.2))
