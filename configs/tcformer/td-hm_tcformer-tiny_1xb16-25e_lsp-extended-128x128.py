"""A small TCFormer + MTA on LSP-Extended (14 joints), 128x128, 25 epochs: for one CPU core.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR
"""

_base_ = '../_base_/td-hm_lsp-extended-128x128.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='TCFormer',
        arch=dict(
            depths=(1, 1, 2, 1),
            embed_dims=(32, 64, 160, 256),
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(4, 4, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
    ),
    neck=dict(
        type='MTA',
        in_channels=[32, 64, 160, 256],
        out_channels=64,
        num_heads=2,
        out_levels=(0,),  # HeatmapHead reads the last map it gets, and needs stride 4
    ),
    head=dict(in_channels=64),
)
