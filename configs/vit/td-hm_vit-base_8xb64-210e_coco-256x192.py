"""ViT-Base with a heat-map head on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The host's recipe of ViTPose, which pads each patch by 2 pixels in addition. To start from MAE's
ImageNet weights, as published, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = (
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-base_8xb64-210e_coco-256x192.py'
)
custom_imports = dict(_delete_=True, imports=['mmtoken'])

# Schedule, augmentation, heatmaps, flip test and AP_H_56 person boxes are the host's.
model = dict(
    backbone=dict(
        _delete_=True,
        type='PlainViT',
        arch='base',
        pos_antialias=False,
        class_token=False,
        drop_path_rate=0.3,
    )
)

# the host's constructor knows its own names only; it decays no bias, norm and position
optim_wrapper = dict(
    constructor='LayerDepthOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay_rate=0.75,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0)},
    ),
)

# An interrupted run loses one epoch at most; the host saves every tenth.
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
