"""TCFormer-large on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the authors' recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp
"""

_base_ = './tcformer-base_8xb128_in1k.py'

model = dict(backbone=dict(arch='large', drop_path_rate=0.3))

optim_wrapper = dict(clip_grad=dict(_delete_=True, max_norm=1.0))
