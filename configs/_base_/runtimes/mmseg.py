"""What every mmseg config needs besides model, data and schedule.

Ours, because ``_base_ = 'mmseg::...'`` fails where mmseg comes from the maintained fork: mmengine
looks for the distribution ``mmsegmentation``, and a stock train.py cannot be taught otherwise.
"""

default_scope = 'mmseg'
custom_imports = dict(imports=['mmtoken'])
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
