from types import SimpleNamespace

import pytest
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
