"""Cascade Mask R-CNN with MaxViT-Tiny and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The host's cascade with the optimizer of the Mask R-CNN config, which has the ImageNet weights, too.
The authors' cascade has two stages and 200 epochs at a fixed size; for groups of cells like theirs
add --cfg-options model.backbone.partition=proportional
"""

_base_ = [
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/datasets/coco_multi_scale.py',
]
custom_imports = dict(imports=['mmtoken'])

model = dict(
    backbone=dict(_delete_=True, type='MaxViT', arch='tiny', drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
sync_bn = 'torch'

train_pipeline = _base_.multi_scale_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# AdamW at 16 images per step; the host's is SGD. Tables of relative positions are not decayed.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)),
    ),
)
