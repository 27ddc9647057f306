"""Mask R-CNN with PaCa-ViT-Tiny on COCO-MINI, 12 epochs: does it run, does it overfit.

python tools/train.py <this file> --data-root DIR

80 images to train on, from random weights, say nothing about quality. DIR is laid out as COCO
2017. The host's own train.py has no --data-root: there, set
{train,val,test}_dataloader.dataset.data_root and {val,test}_evaluator.ann_file with --cfg-options.
"""

_base_ = '../_base_/mask-rcnn_fpn_coco-mini.py'

model = dict(
    backbone=dict(_delete_=True, type='PaCaViT', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 320, 384]),
)
