"""TCFormer-light + MTA on COCO-MINI (17 joints), 256x192, 60 epochs: does it run, does it overfit.

python tools/train.py <this file> --data-root DIR

86 persons to train on say nothing about quality. DIR is laid out as COCO 2017. The host's own
train.py has no --data-root: there, set {train,val,test}_dataloader.dataset.data_root with
--cfg-options.
"""

_base_ = './td-hm_tcformer-light_8xb64-210e_coco-256x192.py'

data_root = 'data/coco_mini'
train_dataloader = dict(batch_size=16, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root, bbox_file=None))  # annotated boxes
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=None)  # that of the dataset under test
test_evaluator = val_evaluator

# 60 epochs x 6 iterations: warm-up and steps in proportion to the 210 epochs of the recipe
train_cfg = dict(max_epochs=60)
param_scheduler = [
    dict(type='LinearLR', begin=0, end=30, start_factor=0.001, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=60, milestones=[48, 57], gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=16)  # 1 GPU x 16 images
