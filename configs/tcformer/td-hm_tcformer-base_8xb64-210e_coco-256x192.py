"""TCFormer + MTA on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The authors published no config for COCO body: this is their COCO-WholeBody recipe with 17 joints.
To start from their ImageNet weights, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['mmtoken'])

# Schedule, augmentation, heatmaps, flip test and AP_H_56 person boxes are the host's.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01)
)

model = dict(
    backbone=dict(_delete_=True, type='TCFormer', arch='base'),
    neck=dict(
        type='MTA',
        in_channels=[64, 128, 320, 512],
        out_channels=256,
        out_levels=(0,),  # HeatmapHead reads the last map it gets, and needs stride 4
    ),
    head=dict(in_channels=256),
)

# An interrupted run loses one epoch at most; the host saves every tenth.
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
