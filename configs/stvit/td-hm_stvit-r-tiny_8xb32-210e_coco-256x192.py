"""STViT-R-Tiny with a heat-map head on COCO (17 joints), 256x192, 210 epochs, 8 GPUs x 32 images.

torchrun --nproc_per_node 8 tools/train.py <this file> --launcher pytorch

The paper has no pose estimation: this is the host's recipe for Swin-T. ImageNet weights: see the
config of the cascade.
"""

_base_ = (
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_swin-t-p4-w7_8xb32-210e_coco-256x192.py'
)
custom_imports = dict(imports=['mmtoken'])

# the host's head upsamples the last map by deconvolutions
model = dict(
    backbone=dict(_delete_=True, type='STViTR', arch='tiny', drop_path_rate=0.2, out_indices=(3,))
)

# An interrupted run loses one epoch at most; the host saves every tenth.
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
