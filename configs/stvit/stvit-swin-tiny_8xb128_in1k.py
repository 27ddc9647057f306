"""STViT-Swin-Tiny on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: STViT-R's recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The authors released neither code nor a recipe for this model.
"""

_base_ = '../_base_/classifier_in1k-300e.py'

model = dict(
    backbone=dict(
        _delete_=True, type='STViTSwin', arch='tiny', out_indices=(3,), drop_path_rate=0.2
    ),
    head=dict(in_channels=768),
)
