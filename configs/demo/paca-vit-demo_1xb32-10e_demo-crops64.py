"""A small PaCa-ViT classifies crops of drawn scenes (7 classes), 64x64, 10 epochs on a CPU.

python tools/demo_data data/demo --num-train 400 --num-val 80 && python tools/train.py <this file>
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='PaCaViT',
        arch=dict(
            depths=(1, 1, 2, 1),
            embed_dims=(32, 64, 128, 160),
            num_heads=(1, 2, 4, 5),
            mlp_ratios=(2, 2, 2, 2),
        ),
        num_clusters=(32, 32, 32, 0),
        out_indices=(3,),
    ),
    head=dict(num_classes=7, in_channels=160),
    train_cfg=None,  # no mixing of images: the run is short
)
data_preprocessor = dict(num_classes=7)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs'),
]

# the host numbers the folders in alphabetical order
data_root = 'data/demo'
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root=data_root,
    metainfo=dict(classes=('ball', 'box', 'cone', 'dog', 'person', 'pole', 'tree')),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(data_prefix='crops/train', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    num_workers=1, dataset=dict(data_prefix='crops/val', pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader

val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

# 10 epochs x 65 steps from random weights
train_cfg = dict(max_epochs=10, val_interval=10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=65),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10), visualization=dict(interval=5))
auto_scale_lr = dict(base_batch_size=32)  # 1 x 32 images
randomness = dict(seed=0)
