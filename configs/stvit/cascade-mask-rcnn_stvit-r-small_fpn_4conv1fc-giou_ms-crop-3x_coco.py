"""Cascade Mask R-CNN with STViT-R-Small and FPN on COCO, 36 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from the authors' ImageNet weights (flavour 'classification'), download them yourself and
add --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
model.backbone.init_cfg.ignore=norm model.backbone.init_cfg.reinitialize=norm
Their detectors were trained with model.backbone.mask=released.
"""

# its heads, augmentation and 36 epochs are those of the authors
_base_ = (
    'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'
)
custom_imports = dict(imports=['mmtoken'])

model = dict(backbone=dict(_delete_=True, type='STViTR', arch='small', drop_path_rate=0.2))

# 16 images per step. No decay by name, as published: the batch norms of the stem and the layer
# scales are decayed.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
