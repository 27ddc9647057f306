"""Mask R-CNN with PaCa-ViT-Tiny and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from the authors' ImageNet weights, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/datasets/coco_multi_scale.py',
]
custom_imports = dict(imports=['mmtoken'])

# Schedule (warm-up of 500 iterations from 1e-3, x0.1 after epochs 8 and 11) and test are the host's.
model = dict(
    backbone=dict(_delete_=True, type='PaCaViT', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 320, 384]),
)

train_pipeline = _base_.multi_scale_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# AdamW at 16 images per step; the host's is SGD. No decay by kind of layer, because a rule on the
# name "norm" misses the batch norms of a teacher.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
