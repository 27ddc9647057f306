"""Cascade Mask R-CNN with PaCa-ViT-Small and FPN on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The authors published no cascade: this is their Mask R-CNN recipe on the host's cascade.
To start from their ImageNet weights, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = [
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    '../_base_/datasets/coco_multi_scale.py',
]
custom_imports = dict(imports=['mmtoken'])

model = dict(
    backbone=dict(_delete_=True, type='PaCaViT', arch='small', drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 320, 384]),
)

train_pipeline = _base_.multi_scale_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# as for Mask R-CNN
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
