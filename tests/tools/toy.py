"""The smallest thing that a runner trains: a line through four points, from a JSON file."""

import random
import time

import mmengine
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmtoken.common.backbone import resolve_arch
from torch import nn


@DATASETS.register_module()
class Points(BaseDataset):
    """Samples ``{'x': float, 'y': float}``."""

    def parse_data_info(self, raw_data_info: dict) -> dict:
        return raw_data_info


@MODELS.register_module()
class Arch(nn.Module):
    """Takes an architecture, as the backbones do, and does nothing."""

    def __init__(self, arch: str | dict) -> None:
        super().__init__()
        resolve_arch(arch, dict(tiny={}), ('dim', 'depth'))


@MODELS.register_module()
class Line(BaseModel):
    """A linear layer; a loss of ``scale`` times the squared error.

    ``padding`` values more to save, and ``pause`` seconds per step, leave time for interruptions.
    """

    def __init__(
        self, scale: float = 1.0, num_classes: int = 2, inner=None, padding=0, pause=0.0, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.pause = pause
        if padding:
            self.register_buffer('padding', torch.zeros(padding))
        self.inner = MODELS.build(inner) if inner else None
        self.scale = scale
        self.layer = nn.Linear(1, 1)
        self.register_buffer('steps', torch.tensor(0))
        self.bbox_head = nn.Linear(1, 1)
        self.bbox_head.num_classes = num_classes

    def forward(self, x, y, sample_idx, mode='tensor'):
        time.sleep(self.pause)
        x, y = torch.tensor(x), torch.tensor(y)
        out = self.bbox_head(self.layer(x[:, None]))[:, 0]
        if mode == 'loss':
            self.steps += 1
            return dict(loss=self.scale * (out - y).square().mean())
        return [dict(pred=float(value), steps=int(self.steps)) for value in out]


@METRICS.register_module()
class MeanPrediction(BaseMetric):
    """The mean prediction, and a number that is higher after every epoch."""

    def process(self, data_batch, data_samples):
        self.results.extend((sample['pred'], sample['steps']) for sample in data_samples)

    def compute_metrics(self, results):
        mean, steps = torch.tensor(results).mean(0).tolist()
        return dict(mean=mean, steps=steps)


@HOOKS.register_module()
class DrawHook(Hook):
    """Write what each process draws, and the parameters that it starts from."""

    def before_train(self, runner):
        draws = [random.random(), np.random.rand(), torch.rand(1).item()]
        parameters = [value.tolist() for value in runner.model.parameters()]
        path = f'{runner.work_dir}/drawn_{runner.rank}.json'
        mmengine.dump(dict(draws=draws, parameters=parameters), path)


CONFIG = """
custom_imports = dict(imports=['toy'])
data_root = 'data/toy'
data = dict(
    type='Points', data_root=data_root, ann_file='train.json', serialize_data=False)
train_dataloader = dict(
    batch_size=2, dataset=data, sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=2, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='MeanPrediction')
model = dict(type='Line')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = test_cfg = dict()
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', interval=1))
"""
LAZY = """
from mmengine.config import read_base
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import SGD
from toy import Line
with read_base():
    from .toy_data import *
default_scope = None
model = dict(type=Line)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1, momentum=0.9))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1), checkpoint=dict(type=CheckpointHook, interval=1))
"""
LAZY_DATA = """
from mmengine.dataset import DefaultSampler
from toy import MeanPrediction, Points
data_root = 'data/toy'
data = dict(type=Points, data_root=data_root, ann_file='train.json', serialize_data=False)
train_dataloader = dict(
    batch_size=2, dataset=data, sampler=dict(type=DefaultSampler, shuffle=True))
val_dataloader = dict(
    batch_size=2, dataset=data, sampler=dict(type=DefaultSampler, shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type=MeanPrediction)
test_evaluator = val_evaluator
"""
