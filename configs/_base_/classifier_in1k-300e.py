"""ImageNet-1k classifier, 224x224, 300 epochs, 8 GPUs x 128 images: the host's recipe of Swin.

AdamW with a learning rate of 5e-4 per 512 images, 20 epochs of warm-up from 1e-6, cosine to 1e-5,
gradients clipped at 5, mixup 0.8 or cutmix 1.0, label smoothing 0.1, RandAugment (timm's
rand-m9-mstd0.5-inc1), random erasing 0.25. A config adds its backbone with ``_delete_=True`` and
the head's ``in_channels``.
"""

_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
custom_imports = dict(imports=['mmtoken'])

# every backbone sets its own initial values
model = dict(
    init_cfg=None,
    head=dict(init_cfg=dict(_delete_=True, type='TruncNormal', layer='Linear', std=0.02)),
)

data_root = 'data/imagenet'
train_dataloader = dict(batch_size=128, dataset=dict(data_root=data_root))  # 8 x 128 = 1024
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
