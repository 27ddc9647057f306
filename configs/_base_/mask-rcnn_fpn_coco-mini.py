"""Mask R-CNN on COCO-MINI, 12 epochs of images of 427x256 at most: no backbone.

For a CPU. A config adds its backbone with ``_delete_=True`` and the neck's ``in_channels``.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

# 256 instead of 800 on the short side is a tenth of the pixels, and an eighth of the regions (the
# host samples 512 per image) saves most of the rest: each positive one has a mask.
model = dict(
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(427, 256), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(427, 256), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

data_root = 'data/coco_mini'
train_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

# the published recipe of PaCa-ViT on COCO, at 2 images per step instead of 16
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
# 12 epochs x 40 iterations: one epoch of warm-up, where the recipe has 500 of 88 thousand
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=40),
    dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=2)  # 1 process x 2 images
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
