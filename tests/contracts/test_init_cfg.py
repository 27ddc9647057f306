"""``init_cfg`` in every form of mmengine, for every backbone, neck and head."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule, KaimingInit, PretrainedInit
from mmengine.registry import MODELS
from rooms import BACKBONES, READERS, smallest_id

CONFIGS = [*BACKBONES, *(reader for reader, _ in READERS)]
every_class = pytest.mark.parametrize('config', CONFIGS, ids=smallest_id)
CONSTANT = dict(type='Constant', val=0.3, bias=0.1, layer=['Linear', 'LayerNorm', 'Conv2d'])
INITIALIZERS = [
    CONSTANT,
    ConfigDict(type='Xavier', distribution='uniform', layer='Conv2d'),
    dict(type=KaimingInit, layer=['Conv2d', 'Linear']),
    dict(type='mmengine.Normal', std=0.2, layer='Linear'),
    [
        dict(type='TruncNormal', std=0.1, layer='Linear'),
        dict(type='Constant', val=1, layer='LayerNorm'),
    ],
]


def build(config, init_cfg=None):
    if MODELS.get(config['type']) is None:
        pytest.skip(f'the host of {config["type"]} is not installed')
    torch.manual_seed(0)
    return MODELS.build(dict(config, init_cfg=init_cfg))


def assert_equal(model, state):
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@every_class
def test_initializers_do_what_mmengine_does(config):
    for init_cfg in INITIALIZERS:
        model = build(config, init_cfg)
        want = copy.deepcopy(model)
        torch.manual_seed(1)
        model.init_weights()
        torch.manual_seed(1)
        BaseModule.init_weights(want)
        assert_equal(model, want.state_dict())


@every_class
def test_pretrained_in_every_form(config, tmp_path, randomize):
    state = randomize(build(config)).state_dict()
    path = str(tmp_path / 'whole.pth')
    torch.save({f'part.{key}': value for key, value in state.items()}, path)
    file = dict(checkpoint=path, prefix='part.', map_location='cpu')
    for kind in ('Pretrained', 'mmengine.Pretrained', PretrainedInit):
        # whatever else initialises comes first
        for init_cfg in (ConfigDict(file, type=kind), [dict(file, type=kind), CONSTANT]):
            model = build(config, init_cfg)
            model.init_weights()
            assert_equal(model, state)
            assert model.init_cfg == init_cfg and model.is_init


@every_class
def test_what_is_not_loaded_keeps_what_another_initializer_gave(config, tmp_path):
    model, kinds = build(config), (torch.nn.Linear, torch.nn.Conv2d)
    key = next(name for name, m in model.named_modules() if isinstance(m, kinds)) + '.weight'
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    file = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), reinitialize=key)
    model = build(config, [file, CONSTANT])
    model.init_weights()
    assert (model.get_parameter(key) == 0.3).all()


@every_class
def test_initialised_once(config):
    model = build(config, CONSTANT)
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.init_weights()
    assert all((parameter == 7).all() for parameter in model.parameters())
