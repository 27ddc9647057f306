"""STViT-DeiT-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's DeiT recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The authors released neither code nor a recipe for this model.
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(_delete_=True, type='STViTDeiT', arch='tiny'),
    head=dict(in_channels=192),
)

# no decay of position embeddings and of the global centre
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.pos_embed': dict(decay_mult=0.0),
            '.global_center': dict(decay_mult=0.0),
        }
    )
)
