"""TCFormer-light + MTA on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 64 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch
"""

_base_ = './td-hm_tcformer-base_8xb64-210e_coco-256x192.py'

model = dict(backbone=dict(arch='light'))
