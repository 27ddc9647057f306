"""mmdet's PVTv2-B1 with the PaCa head on CamVid: what PaCa-ViT-Tiny is compared with.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

13.5 M parameters where PaCa-ViT-Tiny has 11.8 M; everything else is that config's.
"""

_base_ = './paca-vit-tiny_pacahead_1xb8-10e_camvid-crop160.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[2, 2, 2, 2],
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
)
