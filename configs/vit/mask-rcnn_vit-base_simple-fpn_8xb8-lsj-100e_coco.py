"""Mask R-CNN with ViTDet-Base on COCO, 1024x1024, large-scale jitter, 100 epochs, 8 GPUs x 8 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from MAE's ImageNet weights, as published, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmtoken'])

# detectron2's: every convolution of the heads is followed by a norm over the channels
head_norm = dict(type='ChannelNorm', eps=1e-6)
image_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # squares, in tests too
    backbone=dict(
        _delete_=True,
        type='PlainViT',
        arch='base',
        pos_antialias=False,
        class_token=False,
        window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),  # all but every third
        rel_pos_size=1024,
        out_norm='none',
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type='SimpleFPN', in_channels=768),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=head_norm),
        mask_head=dict(norm_cfg=head_norm),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(batch_size=8, num_workers=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    constructor='LayerDepthOptimWrapperConstructor',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0)},
    ),
)
# 184375 iterations of 64 images; x0.1 after 163889 and 177546 of them, which is 89 and 96 %
train_cfg = dict(max_epochs=100, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=100, milestones=[89, 96], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=64)  # 8 GPUs x 8 images
