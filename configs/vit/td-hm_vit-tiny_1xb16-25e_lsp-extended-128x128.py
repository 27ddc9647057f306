"""ViT-Tiny with one level of SimpleFPN on LSP-Extended (14 joints), 128x128, 25 epochs.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

From random weights, for one CPU core.
"""

_base_ = '../_base_/td-hm_lsp-extended-128x128.py'

# patches of 8 pixels, and a map of stride 4 for the head
model = dict(
    backbone=dict(
        _delete_=True,
        type='PlainViT',
        arch='tiny',
        patch_size=8,
        img_size=128,
        class_token=False,
        out_norm='none',
        drop_path_rate=0.1,
    ),
    neck=dict(type='SimpleFPN', in_channels=192, out_channels=64, scales=(2,), single_out=True),
    head=dict(in_channels=64),
)
