"""ViT-Large with a heat-map head on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The host's recipe of ViTPose; weights: see the config of the base.
"""

_base_ = './td-hm_vit-base_8xb64-210e_coco-256x192.py'

model = dict(backbone=dict(arch='large', drop_path_rate=0.5), head=dict(in_channels=1024))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
