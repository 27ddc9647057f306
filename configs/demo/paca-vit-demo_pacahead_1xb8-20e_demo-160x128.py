"""A small PaCa-ViT with the PaCa head on drawn scenes (11 classes), 160x128, 20 epochs on a CPU.

python tools/demo_data data/demo --num-train 400 --num-val 80 && python tools/train.py <this file>
"""

_base_ = [
    '../_base_/models/segmentor_paca-vit-tiny.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtimes/mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 160)),
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
    decode_head=dict(
        type='PaCaHead',
        in_channels=[32, 64, 128, 160],
        channels=64,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        loss_cluster=dict(type='CrossEntropyLoss', loss_weight=0.4, avg_non_ignore=True),
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    # after the resize: the labels keep the size of the image
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

data_root = 'data/demo'
metainfo = dict(
    classes=(
        *('sky', 'wall', 'ground', 'hill', 'person', 'box'),
        *('ball', 'cone', 'tree', 'pole', 'dog'),
    ),
    palette=[
        *([135, 190, 235], [190, 160, 130], [120, 110, 100], [150, 190, 110], [220, 60, 60]),
        *([240, 170, 40], [240, 240, 80], [255, 110, 0], [20, 120, 50], [90, 90, 200]),
        [150, 60, 160],
    ],
)
train_dataloader = dict(
    drop_last=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        img_suffix='.png',
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ignore_index=255)
test_evaluator = val_evaluator

# 20 epochs x 50 steps from random weights, so they are large ones
optim_wrapper = dict(optimizer=dict(lr=2e-3))
train_cfg = dict(max_epochs=20, val_interval=20)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, begin=0, end=20, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=5))
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
