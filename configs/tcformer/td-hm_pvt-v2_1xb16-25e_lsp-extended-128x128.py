"""mmdet's PVTv2 + HRFPN on LSP-Extended: what the small TCFormer + MTA is compared with.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

Widths and depths are those of td-hm_tcformer-tiny_1xb16-25e_lsp-extended-128x128.py: 2.37 M parameters
where that backbone has 2.38 M. HeatmapHead reads the last map it gets, so that an FPN does not fit:
HRFPN makes one map of stride 4 of all four.
"""

_base_ = '../_base_/td-hm_lsp-extended-128x128.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=32,
        num_layers=[1, 1, 2, 1],
        drop_path_rate=0.0,
    ),
    neck=dict(type='mmdet.HRFPN', in_channels=[32, 64, 160, 256], out_channels=64, num_outs=1),
    head=dict(in_channels=64),
)
