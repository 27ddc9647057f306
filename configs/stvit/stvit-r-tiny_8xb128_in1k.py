"""STViT-R-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the authors' recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

--amp as published. The authors logged 16 GPUs x 64 images, which is the same learning rate.
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='STViTR',
        arch='tiny',
        flavour='classification',
        out_indices=(3,),
        drop_path_rate=0.2,
    ),
    head=dict(in_channels=768),
)
