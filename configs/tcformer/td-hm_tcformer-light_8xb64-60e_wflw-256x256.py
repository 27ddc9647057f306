"""TCFormer-light + cluster-reduced MTA on WFLW (98 face landmarks), 256x256, 60 epochs, 8 x 64.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The final recipe was never released: this follows an experiment in the first author's public
development fork (Adam, steps at 40 and 55 of 60 epochs, rotation and scale as in the host).
"""

_base_ = 'mmpose::face_2d_keypoint/topdown_heatmap/wflw/td-hm_hrnetv2-w18_8xb64-60e_wflw-256x256.py'
custom_imports = dict(imports=['mmtoken'])

model = dict(
    backbone=dict(_delete_=True, type='TCFormer', arch='light'),
    neck=dict(
        _delete_=True,
        type='MTA',
        in_channels=[64, 128, 320, 512],
        out_channels=128,
        mlp_ratio=2,
        reduction='cluster',
        out_levels=(0,),  # HeatmapHead reads the last map it gets, and needs stride 4
    ),
    # one 1x1 convolution; the host's model has another one before it
    head=dict(in_channels=128, conv_out_channels=None, conv_kernel_sizes=None),
)

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
