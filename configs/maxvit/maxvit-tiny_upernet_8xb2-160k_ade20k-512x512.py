"""MaxViT-Tiny with UPerNet on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The paper has no scores on ADE20K: this is Swin's recipe. ImageNet weights: see the config of Mask
R-CNN.
"""

_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtimes/mmseg.py',
]

model = dict(
    backbone=dict(type='MaxViT', arch='tiny', drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
# two images per GPU are too few for the batch norms of the MBConvs
sync_bn = 'torch'

# tables of relative positions are not decayed, as in Swin's recipe
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)))
)
