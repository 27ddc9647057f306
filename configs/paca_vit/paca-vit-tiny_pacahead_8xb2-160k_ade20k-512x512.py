"""PaCa-ViT-Tiny with the PaCa head on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from the authors' ImageNet weights, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = [
    '../_base_/models/segmentor_paca-vit-tiny.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtimes/mmseg.py',
]

model = dict(
    decode_head=dict(
        type='PaCaHead',
        in_channels=[96, 192, 320, 384],
        in_index=(0, 1, 2, 3),
        channels=256,
        num_classes=150,
        dropout_ratio=0.1,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True
        ),
        loss_cluster=dict(
            type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4, avg_non_ignore=True
        ),
    ),
)

# What starts from random weights learns ten times as fast: the head, and the clustering layers
# whose number of clusters is not that of the ImageNet weights.
optim_wrapper = dict(
    constructor='RoleOptimWrapperConstructor',
    paramwise_cfg=dict(
        roles=dict(final_clustering=dict(lr_mult=10.0), head=dict(lr_mult=10.0)),
    ),
)
