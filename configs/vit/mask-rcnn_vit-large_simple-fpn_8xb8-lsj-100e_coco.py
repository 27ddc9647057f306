"""Mask R-CNN with ViTDet-Large on COCO, 1024x1024, large-scale jitter, 100 epochs, 8 GPUs x 8 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './mask-rcnn_vit-base_simple-fpn_8xb8-lsj-100e_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        # all but every sixth
        window_block_indexes=(
            *(0, 1, 2, 3, 4, 6, 7, 8, 9, 10),
            *(12, 13, 14, 15, 16, 18, 19, 20, 21, 22),
        ),
        drop_path_rate=0.4,
    ),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
