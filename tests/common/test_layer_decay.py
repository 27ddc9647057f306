"""Learning rates by depth, for every backbone, next to mmengine's other rules."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from rooms import BACKBONES, smallest_id
from torch import nn


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def settings(model, **paramwise):
    """Name of a parameter to its learning rate and weight decay."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='LayerDepthOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
            paramwise_cfg=paramwise,
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    assert len(found) == len(names)
    return found


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_rates_follow_the_depth(backbone):
    model = Model(MODELS.build(backbone))
    rates = {name: lr for name, (lr, _) in settings(model, layer_decay_rate=0.5).items()}
    for name, rate in rates.items():
        depth, number = model.backbone.get_layer_depth(name, 'backbone.')
        assert rate == 0.5 ** (number - depth - 1), name
    assert rates['head.weight'] == 1.0
    assert min(rates.values()) == 0.5 ** (sum(model.backbone.depths) + 1)


def test_other_rules_stay_in_force():
    model = Model(MODELS.build(BACKBONES[0]))
    rules = dict(norm_decay_mult=0.0, custom_keys={'head.bias': dict(lr_mult=10.0, decay_mult=0.0)})
    plain, decayed = (
        settings(model, layer_decay_rate=1, **rules),
        settings(model, layer_decay_rate=0.5, **rules),
    )
    assert plain['head.bias'] == decayed['head.bias'] == (10.0, 0.0)
    assert {name: decay for name, (_, decay) in plain.items()} == {
        name: decay for name, (_, decay) in decayed.items()
    }
    assert {decay for _, decay in decayed.values()} == {0.0, 0.5}


def test_invalid():
    model = Model(MODELS.build(BACKBONES[0]))
    for rate in (None, 0, 1.5, 'a'):
        with pytest.raises(ValueError, match=rf'layer_decay_rate must be .* got {rate!r}'):
            settings(model, layer_decay_rate=rate)
    with pytest.raises(ValueError, match='needs a backbone with get_layer_depth, got none in Lin'):
        settings(nn.Linear(2, 2), layer_decay_rate=0.5)
