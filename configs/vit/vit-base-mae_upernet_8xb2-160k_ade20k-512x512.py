"""ViT-Base with UPerNet on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images: MAE's recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from MAE's ImageNet weights, as published, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtimes/mmseg.py',
]

model = dict(
    backbone=dict(
        type='PlainViT',
        arch='base',
        pos_antialias=False,
        out_indices=(3, 5, 7, 11),
        out_norm='none',
        drop_path_rate=0.1,
    ),
    neck=dict(type='Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768, 768, 768, 768], channels=768),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)

optim_wrapper = dict(
    constructor='LayerDepthOptimWrapperConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        bias_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)},
    ),
)
