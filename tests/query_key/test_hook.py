import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmtoken import QKInteractionHook
from mmtoken.query_key.report import analyse
from torch import nn


class Visualizer:
    def __init__(self):
        self.logged = {}

    def add_scalars(self, scalars, step):
        self.logged[step] = scalars


def train(hook, model, steps=4):
    runner = SimpleNamespace(model=model, visualizer=Visualizer(), iter=0)
    hook.before_train(runner)
    for runner.iter in range(steps):
        hook.after_train_iter(runner, runner.iter)
    return runner.visualizer.logged


def test_logs_means_over_heads(pyramid):
    model = nn.ModuleDict(dict(backbone=pyramid))
    logged = train(QKInteractionHook(interval=2), model)
    assert list(logged) == [0, 1, 3]  # before training, and after iterations 2 and 4
    for one in analyse(model['backbone']).layers:
        assert logged[1][f'query_key/cos_avg/{one.name}'] == pytest.approx(one.mean)
        rank = sum(one.effective_rank) / len(one.effective_rank)
        assert logged[1][f'query_key/effective_rank/{one.name}'] == pytest.approx(rank)
    assert len(logged[1]) == 4


def test_chosen_layers(pyramid):
    logged = train(QKInteractionHook(layers=[1]), pyramid, 0)
    assert set(logged[0]) == {'query_key/cos_avg/1', 'query_key/effective_rank/1'}
    with pytest.raises(ValueError, match="must be one of 0: 0, 1: 1; got 'blocks'"):
        train(QKInteractionHook(layers=['blocks']), pyramid, 0)
    with pytest.raises(ValueError, match='must have attention layers'):
        train(QKInteractionHook(), nn.Linear(1, 1), 0)


@pytest.mark.parametrize('layers', ['0', [], [1.5], 3])
def test_invalid_layers(layers):
    with pytest.raises(ValueError, match='layers must be a list of names or numbers, or None'):
        QKInteractionHook(layers=layers)


@pytest.mark.parametrize('interval', [0, 1.5, True])
def test_invalid_interval(interval):
    with pytest.raises(ValueError, match='interval must be a whole number'):
        QKInteractionHook(interval)


class Trained(BaseModel):
    """Trains the queries and keys of its backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.backbone[0].qkv(torch.stack(inputs)).square().mean())


def test_in_a_runner(pyramid, tmp_path):
    """The local backend of a real run has the scalars of every step."""
    runner = Runner(
        model=Trained(pyramid),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(8))] * 4,
            sampler=dict(type='DefaultSampler'),
            batch_size=2,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
        custom_hooks=[dict(type='QKInteractionHook', interval=2, layers=[0])],
        default_hooks=dict(checkpoint=None),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
    )
    runner.train()
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    logged = [line for line in lines if 'query_key/cos_avg/0' in line]
    assert [line['step'] for line in logged] == [0, 1, 3]
    assert len({line['query_key/effective_rank/0'] for line in logged}) == 3
