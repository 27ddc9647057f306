"""A small MaxViT with a heat-map head on LSP-Extended (14 joints), 128x128, 25 epochs, one core.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

From random weights.
"""

_base_ = '../_base_/td-hm_lsp-extended-128x128.py'

# three deconvolutions from stride 32 to heat maps of 32x32
model = dict(
    backbone=dict(
        _delete_=True,
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
    head=dict(in_channels=256, deconv_out_channels=(64, 64, 64), deconv_kernel_sizes=(4, 4, 4)),
)
