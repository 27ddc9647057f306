"""A small TCFormer + MTA on drawn scenes (17 joints), 128x96, 20 epochs on a 2-core CPU.

python tools/demo_data data/demo --num-train 400 --num-val 80 && python tools/train.py <this file>
"""

_base_ = '../tcformer/td-hm_tcformer-base_8xb64-210e_coco-256x192.py'

# 96x128 at stride 4; wide targets are learned in few steps
codec = dict(type='MSRAHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=2)
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(1, 1, 2, 1),
            embed_dims=(32, 64, 128, 256),
            num_heads=(1, 2, 4, 8),
            mlp_ratios=(2, 4, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, num_heads=2, mlp_ratio=2),
    head=dict(in_channels=64, decoder=codec),
)

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    # people in the scenes stand upright and the run is short: little distortion, no rotation
    dict(type='RandomBBoxTransform', scale_factor=(0.8, 1.2), rotate_prob=0),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='PackPoseInputs'),
]

data_root = 'data/demo'
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_train.json',
        data_prefix=dict(img='img_dir/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_val.json',
        data_prefix=dict(img='img_dir/val/'),
        bbox_file=None,  # annotated boxes
        pipeline=val_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=None)  # that of the dataset under test
test_evaluator = val_evaluator

# 400 pictures show about 750 people: 94 steps an epoch, 1880 in all, so they are large ones
optim_wrapper = dict(optimizer=dict(lr=3e-3))
train_cfg = dict(max_epochs=20, val_interval=20)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=50, start_factor=0.001, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=20, milestones=[16, 19], gamma=0.1, by_epoch=True),
]
# after so few steps the scores of joints are low
default_hooks = dict(logger=dict(interval=5), visualization=dict(kpt_thr=0.2))
auto_scale_lr = dict(base_batch_size=8)  # 1 x 8 images
randomness = dict(seed=0)
