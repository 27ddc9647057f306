"""PaCa-ViT-Small (49 to 100 clusters on ImageNet) with the PaCa head on ADE20K, 512x512, 160k iterations, 8 GPUs x 2 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch --amp

The model of "small-m100x4": all have 200 clusters here, and only the ImageNet weights differ.
"""

_base_ = './paca-vit-small-m100x4_pacahead_8xb2-160k_ade20k-512x512.py'
