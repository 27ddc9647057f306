"""Mask R-CNN with ViT-Tiny and a thin SimpleFPN on DSB-2018 nuclei, 10 epochs of 128x128 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

DIR has images/ and instances_{train,val}.json (COCO): 268 and 66 images of 256x256, one class.
From random weights, sized for one CPU core.
"""

_base_ = '../_base_/mask-rcnn_fpn_nuclei-crop128.py'

# patches of 8 pixels: levels of stride 4 to 64, like those of an FPN
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
    neck=dict(
        _delete_=True,
        type='SimpleFPN',
        in_channels=192,
        out_channels=64,
        scales=(2, 1, 0.5),
        num_extra=2,
    ),
)
