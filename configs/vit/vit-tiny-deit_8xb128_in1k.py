"""Plain ViT-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's DeiT recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(_delete_=True, type='PlainViT', arch='tiny', out_type='class'),
    neck=None,
    head=dict(in_channels=192),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.cls_token': dict(decay_mult=0.0), '.pos_embed': dict(decay_mult=0.0)}
    )
)
