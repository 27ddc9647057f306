"""ViT-Small with a heat-map head on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The host's recipe of ViTPose, whose small model has 12 heads; weights: see the config of the base.
"""

_base_ = './td-hm_vit-base_8xb64-210e_coco-256x192.py'

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=384, depth=12, num_heads=12, hidden_dim=1536),
        drop_path_rate=0.1,
    ),
    head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
