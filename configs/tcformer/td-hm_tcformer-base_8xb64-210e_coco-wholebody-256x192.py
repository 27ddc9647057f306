"""TCFormer + MTA on COCO-WholeBody (133 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The authors start from their ImageNet weights; download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = (
    'mmpose::wholebody_2d_keypoint/topdown_heatmap/coco-wholebody/'
    'td-hm_hrnet-w32_8xb64-210e_coco-wholebody-256x192.py'
)
custom_imports = dict(imports=['mmtoken'])

# The recipe of the released code. Its schedule (warm-up of 500 iterations, steps at 170 and 200),
# augmentation (shift 0.16 and half body with p 0.3, rotation, scale 0.5), sigma 2, padding 1.25,
# flip test with shifted heatmaps and AP_H_56 person boxes are those of the host's config.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01)
)

# The released code trains this model without drop path.
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
