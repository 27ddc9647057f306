"""Top-down heat maps on LSP-Extended (14 joints), 256x256, 210 epochs: no backbone.

A config replaces the backbone, and sets the head's ``in_channels``. DIR of --data-root holds
person_keypoints_{train,val}.json and images/. The host's own train.py has no --data-root: there,
set {train,val,test}_dataloader.dataset.data_root with --cfg-options.
"""

_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['mmtoken'])

# athletes lie, jump and hang upside down: a square crop
codec = dict(type='MSRAHeatmap', input_size=(256, 256), heatmap_size=(64, 64), sigma=2)
model = dict(head=dict(out_channels=14, decoder=codec))

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomHalfBody'),
    dict(type='RandomBBoxTransform'),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='PackPoseInputs'),
]

data_root = 'data/lsp_extended'
# the folder of this file: from_file alone would be looked up in the working directory
metainfo = dict(from_file='{{ fileDirname }}/datasets/lsp_extended.py')
# Unlabelled joints carry visibility 0 in the annotation and with it no weight in the loss.
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='person_keypoints_train.json',
        data_prefix=dict(img='images/'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='person_keypoints_val.json',
        data_prefix=dict(img='images/'),
        bbox_file=None,  # annotated boxes
        metainfo=metainfo,
        pipeline=val_pipeline,
    )
)
test_dataloader = val_dataloader

# PCK by the longer side of the box: the host's torso norm is wired to JHMDB's joint order.
# 0.1 of the box is about 0.2 of the torso, the usual LSP threshold, in an upright pose.
val_evaluator = [
    dict(type='CocoMetric'),  # reads the annotation file of the dataset under test
    dict(type='PCKAccuracy', thr=0.2, norm_item='bbox', prefix='box_0.2'),
    dict(type='PCKAccuracy', thr=0.1, norm_item='bbox', prefix='box_0.1'),
]
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01)
)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
auto_scale_lr = dict(base_batch_size=64)  # 1 GPU x 64 images
