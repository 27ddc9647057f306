"""STViT-DeiT-Base on ImageNet-1k, 224x224, 300 epochs, 8 GPUs x 128 images: the host's DeiT recipe.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The host adds drop path and an exponential moving average to the base model only.
"""

_base_ = './stvit-deit-tiny_8xb128_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.1), head=dict(in_channels=768))

custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
