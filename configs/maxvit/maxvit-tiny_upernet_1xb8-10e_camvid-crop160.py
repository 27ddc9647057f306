"""MaxViT-Tiny with a thin UPerNet on CamVid at half size, 10 epochs of 160x160 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

DIR has img_dir/{train,val,test} (jpg) and ann_dir (png): 367, 101 and 233 street scenes of
480x360, 11 classes. From random weights, sized for one CPU core: trained on crops of the image at
half size, tested on whole ones; scores are at full size.
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/adamw_10e.py',
    '../_base_/runtimes/mmseg.py',
]

# heads at a quarter of their width
model = dict(
    data_preprocessor=dict(size=(160, 160), seg_pad_val=11),
    backbone=dict(type='MaxViT', arch='tiny', drop_path_rate=0.1),
    decode_head=dict(
        in_channels=[64, 128, 256, 512],
        channels=128,
        num_classes=11,
        ignore_index=11,
        norm_cfg=dict(type='BN'),
    ),
    auxiliary_head=dict(
        in_channels=256,
        channels=64,
        num_classes=11,
        ignore_index=11,
        norm_cfg=dict(type='BN'),
    ),
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
