"""Mask R-CNN with PaCa-ViT-Small (2 clusters, none in stage 4) on COCO, 12 epochs, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './mask-rcnn_paca-vit-tiny_fpn_1x_coco.py'

model = dict(backbone=dict(arch='small', num_clusters=(2, 2, 2, 0)))
