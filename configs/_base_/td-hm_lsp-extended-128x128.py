"""Top-down heat maps on LSP-Extended (14 joints), 128x128, 25 epochs from random weights: no backbone.

For one CPU core. A config replaces the backbone, and sets the head's ``in_channels``.
"""

_base_ = './td-hm_lsp-extended-256x256.py'

# a stride-4 map of 32x32: a joint as wide, in parts of the image, as with 64x64 and sigma 2
codec = dict(type='MSRAHeatmap', input_size=(128, 128), heatmap_size=(32, 32), sigma=1.5)
model = dict(head=dict(decoder=codec))

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    # 25 epochs from random weights: half the recipe's distortion, and no half bodies
    dict(type='RandomBBoxTransform', scale_factor=(0.75, 1.25), rotate_factor=40),
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
train_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader

# 1e-3 at 16 images: 3125 short steps from random weights, cosine to zero
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=25, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=200, start_factor=0.001, by_epoch=False),
    dict(type='CosineAnnealingLR', begin=0, end=25, T_max=25, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=16)  # 1 x 16 images
