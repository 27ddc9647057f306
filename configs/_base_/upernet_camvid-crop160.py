"""A thin UPerNet on CamVid at half size, 10 epochs of 160x160 crops from random weights: no backbone.

For one CPU core: trained on crops of the image at half size, tested on whole ones; scores are at
full size. A config adds its backbone and the ``in_channels`` of both heads.
"""

_base_ = [
    './models/upernet.py',
    './datasets/camvid_240x180.py',
    './schedules/adamw_10e.py',
    './runtimes/mmseg.py',
]

# heads at a quarter of their width
model = dict(
    data_preprocessor=dict(size=(160, 160), seg_pad_val=11),
    decode_head=dict(channels=128, num_classes=11, ignore_index=11, norm_cfg=dict(type='BN')),
    auxiliary_head=dict(channels=64, num_classes=11, ignore_index=11, norm_cfg=dict(type='BN')),
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
