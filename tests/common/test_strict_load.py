import argparse

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmtoken.common.strict_load import (
    StrictInitModule,
    load_checkpoint_strict,
    load_state_dict_strict,
    read_checkpoint,
    read_state_dict,
)
from mmtoken.compat import prepare_hosts
from torch import nn


class Small(nn.Module):
    checkpoint_ignore = (r'head\.',)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)


def filled(value=7.0):
    return {key: torch.full_like(t, value) for key, t in Small().state_dict().items()}


@pytest.fixture
def save(tmp_path):
    def write(content, name='weights.pth'):
        path = tmp_path / name
        torch.save(content, path)
        return path

    return write


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'state_dict': state, 'meta': {'epoch': 3}},
        lambda state: {'model': state, 'args': argparse.Namespace(lr=0.1), 'epoch': 3},
        lambda state: {'module.' + key: value for key, value in state.items()},
    ],
    ids=['plain', 'mmengine', 'authors', 'distributed'],
)
def test_every_container_opens(save, wrap):
    model = Small()
    report = load_checkpoint_strict(model, save(wrap(filled())))
    assert set(report.loaded) == set(model.state_dict())
    assert all((value == 7).all() for value in model.state_dict().values())


def test_prefix_selects(save):
    state = {'backbone.' + key: value for key, value in filled().items()}
    path = save({'state_dict': {**state, 'neck.fc.weight': torch.zeros(1)}})
    load_checkpoint_strict(Small(), path, prefix='backbone.')
    with pytest.raises(
        ValueError, match=r"starts with prefix='body.'; .* \['backbone.', 'neck.'\]"
    ):
        read_state_dict(path, 'body.')


def test_released_head_is_ignored_and_reported():
    report = load_state_dict_strict(Small(), {**filled(), 'head.weight': torch.zeros(5, 3)})
    assert report.ignored == ('head.weight',)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('fc.bias'), r'missing: fc.bias'),
        (lambda s: s.update({'extra.w': torch.zeros(1)}), r'unexpected: extra.w'),
        (lambda s: s.update({'fc.bias': torch.zeros(9)}), r'mismatched: fc.bias: \(9,\) -> \(3,\)'),
    ],
)
def test_undeclared_difference_raises_and_loads_nothing(change, message):
    state, model = filled(), Small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_state_dict_strict(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_declared_differences_pass():
    state, model = filled(), Small()
    state['fc.bias'], state['old.w'] = torch.zeros(9), torch.zeros(1)
    before = model.fc.bias.clone()
    report = load_state_dict_strict(model, state, reinitialize=[r'fc\.bias'], ignore=[r'old\.'])
    assert report.reinitialized == ('fc.bias',)
    assert report.ignored == ('old.w',)
    assert torch.equal(model.fc.bias, before)


def test_checkpoint_of_another_model_names_the_keys(save):
    path = save(nn.Conv2d(3, 3, 1).state_dict())
    with pytest.raises(ValueError, match=r'does not fit Small (?s:.*)missing: fc.weight'):
        load_checkpoint_strict(Small(), path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="existing file, got 'nowhere.pth'"):
        read_checkpoint('nowhere.pth')


def test_truncated_file(save):
    path = save(filled())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r'\(300 bytes\) is no readable weights file'):
        read_checkpoint(path)


def test_reading_leaves_runner_checkpoints_loadable(save):
    prepare_hosts()
    path = save({'state_dict': filled(), 'history': HistoryBuffer([1.0], [1])})
    read_checkpoint(path)
    assert isinstance(torch.load(path, weights_only=True)['history'], HistoryBuffer)


def test_names_that_older_stacks_lack_are_not_needed(save, monkeypatch):
    """Old torch has no public pre-hook; numpy 1.26 has ``_core`` without ``multiarray``."""
    monkeypatch.delattr(nn.Module, 'register_load_state_dict_pre_hook', raising=False)
    monkeypatch.setattr(np, '_core', object(), raising=False)
    path = save(dict(StrictSmall().state_dict(), score=np.float32(0.5)))
    assert read_checkpoint(path)['score'] == 0.5


def test_text_file(tmp_path):
    path = tmp_path / 'weights.pth'
    path.write_text('epoch 3\n')
    with pytest.raises(
        ValueError, match=r'\(8 bytes\) is no readable weights file, got "\w+Error: '
    ):
        read_checkpoint(path)


class Trap:
    fired = False

    def __reduce__(self):
        return setattr, (Trap, 'fired', True)


def test_pickled_code_is_never_run(save):
    path = save({'state_dict': filled(), 'trap': Trap()})
    with pytest.raises(ValueError, match='re-save only its state_dict'):
        read_checkpoint(path)
    assert not Trap.fired


def test_file_without_tensors(save):
    with pytest.raises(ValueError, match=r"must hold named tensors .* got \['epoch'\]"):
        read_state_dict(save({'epoch': 3}))


class StrictSmall(StrictInitModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.fc = nn.Linear(2, 3)


def test_pretrained_goes_through_the_strict_loader(save):
    good = save({'fc.weight': torch.ones(3, 2), 'fc.bias': torch.ones(3)})
    model = StrictSmall(dict(type='Pretrained', checkpoint=str(good)))
    model.init_weights()
    assert (model.fc.weight == 1).all()
    bad = save({'fc.weight': torch.ones(3, 2)}, 'bad.pth')
    for cfg in (pretrained := dict(type='Pretrained', checkpoint=str(bad)), [pretrained]):
        with pytest.raises(ValueError, match='missing: fc.bias'):
            StrictSmall(cfg).init_weights()


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='Pretrained'), 'needs a checkpoint, got'),
        (dict(type='Pretrained', checkpoint='x', prefx='a'), r"got \['prefx'\]"),
        (
            [dict(type='Pretrained', checkpoint='x'), dict(type='Normal', layer='Linear')],
            r"must stand alone, got \['Pretrained', 'Normal'\]",
        ),
    ],
)
def test_bad_init_cfg(cfg, message):
    with pytest.raises(ValueError, match=message):
        StrictSmall(cfg).init_weights()


def test_init_weights_keeps_what_was_loaded_by_hand():
    model = StrictSmall()
    nn.init.constant_(model.fc.weight, 5.0)
    model.init_weights()
    assert (model.fc.weight == 5).all()


def test_weights_survive_the_runner(save, tmp_path):
    """``Runner.train`` calls ``init_weights`` on every module; a zero learning rate shows it."""
    from mmengine.model import BaseModel

    path = save({'fc.weight': torch.full((3, 2), 4.0), 'fc.bias': torch.full((3,), 4.0)})
    MODELS.register_module(module=StrictSmall, force=True)

    @MODELS.register_module(force=True)
    class RunnerModel(BaseModel):
        def __init__(self):
            super().__init__()
            init_cfg = dict(type='Pretrained', checkpoint=str(path))
            self.backbone = MODELS.build(dict(type='StrictSmall', init_cfg=init_cfg))

        def forward(self, inputs, mode='tensor'):
            return {'loss': self.backbone.fc(torch.stack(inputs)).sum()}

    runner = Runner(
        RunnerModel(),
        work_dir=str(tmp_path / 'work'),
        train_dataloader=dict(
            dataset=[{'inputs': torch.ones(2)}] * 2,
            sampler=dict(type='DefaultSampler'),
            batch_size=2,
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=None),
    )
    runner.train()
    assert (runner.model.backbone.fc.weight == 4).all()
