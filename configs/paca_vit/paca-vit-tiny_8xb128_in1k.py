"""PaCa-ViT-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the authors' recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published. Learning rate 5e-4 per 512 images; 5 epochs of warm-up, no clipping.
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(_delete_=True, type='PaCaViT', arch='tiny', out_indices=(3,), drop_path_rate=0.1),
    head=dict(in_channels=384),
)

# evaluation crops 0.9 of the resized image: 224 of 248 pixels
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=248, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5),
]
