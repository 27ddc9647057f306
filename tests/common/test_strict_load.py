"""Weights load completely, or with every difference declared, or not at all."""

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmtoken.common.strict_load import StrictInitModule, load_state_dict_strict
from torch import nn


class Small(nn.Module):
    checkpoint_ignore = (r'head\.',)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.register_buffer('steps', torch.tensor(0, dtype=torch.int32))


def filled(value=7.0):
    return {key: torch.full_like(t, value) for key, t in Small().state_dict().items()}


@pytest.fixture
def save(tmp_path):
    def write(content, name='weights.pth'):
        path = tmp_path / name
        torch.save(content, path)
        return path

    return write


def test_released_head_is_ignored_and_reported():
    report = load_state_dict_strict(Small(), {**filled(), 'head.weight': torch.zeros(5, 3)})
    assert report.ignored == ('head.weight',)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fc.bias': None}, r'missing: fc.bias'),
        ({'extra.w': torch.zeros(1)}, r'unexpected: extra.w'),
        ({'fc.bias': torch.zeros(9)}, r'mismatched: fc.bias: \(9,\) -> \(3,\)'),
        ({'fc.bias': torch.zeros(3).long()}, r'fc.bias: .*int64.* -> .*float32'),
        ({'fc.bias': torch.zeros(3).bool()}, r'fc.bias: .*bool.* -> .*float32'),
        ({'fc.bias': torch.zeros(3) + 0j}, r'fc.bias: .*complex64.* -> .*float32'),
        ({'fc.bias': torch.zeros(3).to_sparse()}, r'fc.bias: sparse_coo.* -> strided'),
        ({'fc.bias': torch.zeros(3, device='meta')}, r'fc.bias: .* on meta -> .* on cpu'),
        ({'fc.bias': torch.tensor([1, torch.nan, 1])}, r'fc.bias: NaN or infinite'),
        ({'fc.bias': torch.tensor([1, -torch.inf, 1])}, r'fc.bias: NaN or infinite'),
        ({'fc.bias': torch.zeros(3).double() + 1e300}, r'fc.bias: NaN or infinite.*float32'),
        ({'steps': torch.tensor(1.0)}, r'steps: .*float32.* -> .*int32'),
        ({'steps': torch.tensor(2**40)}, r'steps: torch.int64 -> torch.int32'),
    ],
)
def test_undeclared_difference_raises_and_loads_nothing(change, message):
    state, model = filled() | change, Small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_state_dict_strict(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_files_of_any_precision_load(dtype):
    model, state = Small(), filled()
    state = {key: value.to(dtype) for key, value in state.items() if key != 'steps'}
    load_state_dict_strict(model, {**state, 'steps': torch.tensor(7)})
    assert (model.fc.weight == 7).all() and model.steps == 7


@pytest.mark.parametrize(
    ('declared', 'message'),
    [
        (dict(reinitialize='fc2'), "reinitialize must match a key of the model, got 'fc2'"),
        (dict(reinitialize=('fc', 'fc2')), "reinitialize must match .* got 'fc2'; correct"),
        (dict(ignore='heads'), "ignore must match a key that only the file has, got 'heads'"),
        (dict(ignore='norm'), "ignore must match a key that only the file has, got 'norm'"),
        (dict(reinitialize='fc('), r"reinitialize must be regular expressions, got 'fc\('"),
        (dict(ignore=(3,)), 'ignore must be regular expressions, got 3'),
        (dict(ignore=3), 'ignore must be regular expressions, got 3'),
        (dict(reinitialize='.*'), r"must leave keys to load, got \('\.\*',\)"),
    ],
)
def test_declarations_must_do_something_and_not_everything(declared, message):
    with pytest.raises(ValueError, match=message):
        load_state_dict_strict(Small(), {**filled(), 'head.weight': torch.zeros(1)}, **declared)


def test_keys_of_parts_that_are_not_built_are_reported_as_ignored():
    class Part(Small):
        def prepare_state_dict(self, state):
            return {k: v for k, v in state.items() if not k.startswith('stage4.')}, ()

    state = {**filled(), 'stage4.w': torch.ones(1)}
    for declared in ({}, {'ignore': 'stage4'}):
        assert load_state_dict_strict(Part(), state, **declared).ignored == ('stage4.w',)


def test_declared_differences_pass():
    state, model = filled(), Small()
    state['fc.bias'], state['old.w'] = torch.zeros(9), torch.zeros(1)
    before = model.fc.bias.clone()
    report = load_state_dict_strict(model, state, reinitialize=[r'fc\.bias'], ignore=[r'old\.'])
    assert report.reinitialized == ('fc.bias',)
    assert report.ignored == ('old.w',)
    assert torch.equal(model.fc.bias, before)


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
    defaults = dict(checkpoint=str(bad), prefix=None, map_location='cpu')  # mmengine's
    for cfg in (dict(defaults, type='Pretrained'), [dict(defaults, type=PretrainedInit)]):
        with pytest.raises(ValueError, match='missing: fc.bias'):
            StrictSmall(cfg).init_weights()


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='Pretrained'), r'needs a checkpoint .* got \{\}'),
        (dict(type='Pretrained', checkpoint='x', prefx='a'), r"takes .* got \{.*'prefx': 'a'\}"),
        (
            [dict(type='Pretrained', checkpoint='x'), dict(type=PretrainedInit, checkpoint='y')],
            "must have one entry of type 'Pretrained', got",
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
