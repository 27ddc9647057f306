"""ViT-Tiny with a thin SimpleFPN and UPerNet on CamVid at half size, 10 epochs of 160x160 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

DIR has img_dir/{train,val,test} (jpg) and ann_dir (png): 367, 101 and 233 street scenes of
480x360, 11 classes.
"""

_base_ = '../_base_/upernet_camvid-crop160.py'

# patches of 8 pixels: levels of stride 4, 8 and 16
model = dict(
    backbone=dict(
        type='PlainViT',
        arch='tiny',
        patch_size=8,
        img_size=160,
        class_token=False,
        out_norm='none',
        drop_path_rate=0.1,
    ),
    neck=dict(type='SimpleFPN', in_channels=192, out_channels=64, scales=(2, 1, 0.5), num_extra=0),
    decode_head=dict(in_channels=[64, 64, 64], in_index=[0, 1, 2]),
    auxiliary_head=None,
)
