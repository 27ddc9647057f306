"""PaCa-ViT-Tiny with a thin UPerNet on CamVid at half size, 10 epochs of 160x160 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

Data and schedule are those of the PaCa head's config.
"""

_base_ = './paca-vit-tiny_pacahead_1xb8-10e_camvid-crop160.py'

# the published UPerNet at a quarter of its width
model = dict(
    decode_head=dict(
        _delete_=True,
        type='UPerHead',
        in_channels=[96, 192, 320, 384],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=128,
        dropout_ratio=0.1,
        num_classes=11,
        ignore_index=11,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
