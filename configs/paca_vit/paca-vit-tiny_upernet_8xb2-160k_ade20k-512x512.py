"""PaCa-ViT-Tiny with UPerNet on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published; leave it out on a CPU: python tools/train.py <this file>.
To start from the authors' ImageNet weights, download them yourself and add
--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtimes/mmseg.py',
]

# Weights of 100 clusters become 200 here: the final clustering layers are re-initialised. The whole
# model has one learning rate, unlike with the PaCa head.
model = dict(
    backbone=dict(type='PaCaViT', arch='tiny', num_clusters=(200, 200, 200, 0), drop_path_rate=0.1),
    decode_head=dict(in_channels=[96, 192, 320, 384]),
    auxiliary_head=dict(in_channels=320),
)
