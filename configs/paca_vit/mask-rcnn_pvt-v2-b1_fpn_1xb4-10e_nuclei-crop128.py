"""Mask R-CNN with mmdet's PVTv2-B1 on DSB-2018 nuclei: what PaCa-ViT-Tiny is compared with.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

13.5 M parameters where PaCa-ViT-Tiny has 11.8 M; everything else is that config's.
"""

_base_ = './mask-rcnn_paca-vit-tiny_fpn_1xb4-10e_nuclei-crop128.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformerV2',
        embed_dims=64,
        num_layers=[2, 2, 2, 2],
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
