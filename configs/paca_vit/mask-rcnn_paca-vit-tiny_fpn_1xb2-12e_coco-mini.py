"""Mask R-CNN with PaCa-ViT-Tiny on COCO-MINI, 12 epochs: does it run, does it overfit.

python tools/train.py <this file> --data-root DIR

80 images to train on, from random weights, say nothing about quality. DIR is laid out as COCO
2017. The host's own train.py has no --data-root: there, set
{train,val,test}_dataloader.dataset.data_root and {val,test}_evaluator.ann_file with --cfg-options.
"""

_base_ = './mask-rcnn_paca-vit-tiny_fpn_1x_coco.py'

# For a CPU: 256 instead of 800 on the short side is a tenth of the pixels, and an eighth of the
# regions (the host samples 512 per image) saves most of the rest: each positive one has a mask.
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

# 12 epochs x 40 iterations: one epoch of warm-up, where the recipe has 500 of 88 thousand
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=40),
    dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=2)  # 1 process x 2 images
default_hooks = dict(logger=dict(interval=10))
randomness = dict(seed=0)
