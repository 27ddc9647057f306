"""TCFormer-light + MTA on LSP-Extended (14 joints), 256x256, 210 epochs from random weights.

python tools/train.py <this file> --data-root DIR
"""

_base_ = '../_base_/td-hm_lsp-extended-256x256.py'

model = dict(
    backbone=dict(_delete_=True, type='TCFormer', arch='light'),
    neck=dict(
        type='MTA',
        in_channels=[64, 128, 320, 512],
        out_channels=256,
        out_levels=(0,),  # HeatmapHead reads the last map it gets, and needs stride 4
    ),
    head=dict(in_channels=256),
)
