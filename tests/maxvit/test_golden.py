"""Equality with timm's full-size model on every golden case that is present."""

import pytest
import torch
from golden import cases as golden
from mmtoken import MaxViT
from torch.nn import functional as F

ALL = golden.names('maxvit')
COUNTER = 'num_batches_tracked'


@pytest.mark.parametrize('name', ALL)
@torch.no_grad()
def test_equals_the_recorded_model(name):
    """The maps, and the logits of the classifier in the file, in float64 and float32."""
    case = golden.CASES[name]
    state = golden.state(case)
    head = {key: state.pop(key) for key in list(state) if key.startswith('head.')}
    model = MaxViT('tiny').double().eval()
    kept = {key: value for key, value in model.state_dict().items() if key not in state}
    assert all(key.endswith(COUNTER) for key in kept)
    model.load_state_dict({**state, **kept}, strict=True)
    for dtype, atol in ((torch.float64, 3e-6), (torch.float32, 2e-5)):
        maps = model.to(dtype)(golden.image(case).to(dtype))
        outputs = {f'stage{i}': value for i, value in enumerate(maps, 1)}
        weights = {key.removeprefix('head.'): value.to(dtype) for key, value in head.items()}
        outputs['logits'] = classify(maps[-1].mean((2, 3)), weights)
        golden.check(case, outputs, atol)


def classify(x, head):
    x = F.layer_norm(x, x.shape[1:], head['norm.weight'], head['norm.bias'])
    x = F.linear(x, head['pre_logits.fc.weight'], head['pre_logits.fc.bias']).tanh()
    return F.linear(x, head['fc.weight'], head['fc.bias'])


@pytest.mark.parametrize('name', ALL[:1])
def test_parameter_names_are_the_released_ones(name):
    case = golden.CASES[name]
    with torch.device('meta'):
        model = MaxViT('tiny')
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    released = {key: tuple(shape) for key, shape, _ in golden.keys(case)}
    assert own == {k: shape for k, shape in released.items() if not k.startswith('head.')}
