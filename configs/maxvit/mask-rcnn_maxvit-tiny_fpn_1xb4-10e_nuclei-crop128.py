"""Mask R-CNN with MaxViT-Tiny and a thin FPN on DSB-2018 nuclei, 10 epochs of 128x128 crops.

OMP_NUM_THREADS=1 python tools/train.py <this file> --data-root DIR

DIR has images/ and instances_{train,val}.json (COCO): 268 and 66 images of 256x256, one class.
From random weights, sized for one CPU core.
"""

_base_ = '../_base_/mask-rcnn_fpn_nuclei-crop128.py'

model = dict(
    backbone=dict(_delete_=True, type='MaxViT', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
