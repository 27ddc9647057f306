"""Frozen DINOv2-Base with UPerNet on ADE20K, 512x512, 40k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

Neck, heads and the final norm are trained. The schedule is our choice, not a published recipe.
Download DINOv2's weights yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = './vit-base-mae_upernet_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        patch_size=14,
        img_size=518,
        pos_offset=0.1,  # as in the official files without registers
        layer_scale=1e-5,
        out_indices=(2, 5, 8, 11),
        out_norm='all',
        drop_path_rate=0.0,
        frozen_stages=12,
    ),
)

optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    optimizer=dict(lr=1e-3, weight_decay=1e-4),
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=40000, by_epoch=False),
]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
