"""Mask R-CNN with a small PaCa-ViT on drawn scenes (7 classes), 160x128, 10 epochs on a CPU.

python tools/demo_data data/demo --num-train 400 --num-val 80 && python tools/train.py <this file>
"""

_base_ = '../paca_vit/mask-rcnn_paca-vit-tiny_fpn_1x_coco.py'

# About 5 things in a scene at half size: few regions, thin heads. From random weights, they learn
# with norms only.
norm_cfg = dict(type='GN', num_groups=8)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(1, 1, 2, 1),
            embed_dims=(32, 64, 128, 160),
            num_heads=(1, 2, 4, 5),
            mlp_ratios=(2, 2, 2, 2),
        ),
        num_clusters=(32, 32, 32, 0),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 160], out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=7,
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(
            in_channels=64,
            conv_out_channels=64,
            num_convs=2,
            norm_cfg=norm_cfg,
            num_classes=7,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=150),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=150), rcnn=dict(max_per_img=50)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(3, 3)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

data_root = 'data/demo'
metainfo = dict(classes=('person', 'box', 'ball', 'cone', 'tree', 'pole', 'dog'))
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='img_dir/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='img_dir/val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val.json')
test_evaluator = val_evaluator

# 10 epochs x 50 steps from random weights, so they are large ones
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0))
train_cfg = dict(max_epochs=10, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=10, milestones=[7, 9], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=8)  # 1 x 8 images
default_hooks = dict(logger=dict(interval=5))
randomness = dict(seed=0)
