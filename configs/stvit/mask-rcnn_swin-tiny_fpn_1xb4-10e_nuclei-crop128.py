"""Mask R-CNN with mmdet's Swin-T on DSB-2018 nuclei: what STViT-R-Tiny is compared with.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

27.5 M parameters, as many as STViT-R-Tiny; everything else is that config's.
"""

_base_ = './mask-rcnn_stvit-r-tiny_fpn_1xb4-10e_nuclei-crop128.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.1,
    )
)
