"""A small MaxViT with a heat-map head on LSP-Extended (14 joints), 128x128, 25 epochs, one core.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

Data, schedule and the size of heat maps are those of the small TCFormer.
"""

_base_ = '../tcformer/td-hm_tcformer-tiny_1xb16-25e_lsp-extended-128x128.py'

# three deconvolutions from stride 32 to heat maps of 32x32
model = dict(
    _delete_=True,
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='MaxViT',
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 1, 2, 1),
            stem_dims=(32, 32),
            head_dim=32,
            form='tf',
            layer_scale=None,
        ),
        out_indices=(3,),
        drop_path_rate=0.1,
    ),
    head=dict(
        type='HeatmapHead',
        in_channels=256,
        out_channels=14,
        deconv_out_channels=(64, 64, 64),
        deconv_kernel_sizes=(4, 4, 4),
        loss=dict(type='KeypointMSELoss', use_target_weight=True),
        decoder=_base_.codec,
    ),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True),
)
