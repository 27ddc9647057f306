"""MaxViT-Tiny with a thin UPerNet on CamVid at half size, 10 epochs of 160x160 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

DIR has img_dir/{train,val,test} (jpg) and ann_dir (png): 367, 101 and 233 street scenes of
480x360, 11 classes.
"""

_base_ = '../_base_/upernet_camvid-crop160.py'

model = dict(
    backbone=dict(type='MaxViT', arch='tiny', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
