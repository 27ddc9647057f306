"""Equality with the authors' models on every golden case that is present."""

import math

import pytest
import torch
from golden import cases as golden
from mmtoken import STViTR, record_tokens
from torch.nn import functional as F

ALL = golden.names('stvitr')
SIZES = ('tiny', 'small', 'base')


def arguments(case):
    """The released model of a case, in the words of the registered class."""
    spec = case['architecture']
    arch = next(size for size in SIZES if f'swin_{size}_' in case['name'])
    if case['family'] == 'stvitr_det':
        return dict(arch=arch, mask='released' if spec['pad_mask'] else 'none')
    return dict(
        arch=arch,
        flavour='classification',
        out_indices=(3,),
        stgm_residual=spec['shortcut'],
        use_global_center=spec['use_global'],
    )


def build(case):
    """Build the released model and give it the weights of the case; return its head too."""
    with golden.without_initial_values():
        model = STViTR(**arguments(case)).double().eval()
    state = golden.state(case)
    head = {key: state.pop(key) for key in list(state) if key.startswith('head.')}
    kept = {key: value for key, value in model.state_dict().items() if key not in state}
    assert all(key.endswith(('relative_position_index', 'num_batches_tracked')) for key in kept)
    model.load_state_dict({**state, **kept}, strict=True)
    return model, head


@torch.no_grad()
def check_model(name, dtype, atol):
    """Recorded and not; the weights are made once."""
    case = golden.CASES[name]
    model, head = build(case)
    model.to(dtype)
    image = golden.image(case).to(dtype)
    plain = model(image)
    with record_tokens(model) as recorder:
        recorded = model(image)
    assert len(recorder.attention) == sum(model.depths)
    for maps in (plain, recorded):
        outputs = {f'map{i}': value for i, value in enumerate(maps)}
        if head:
            weight, bias = (head[f'head.{key}'].to(dtype) for key in ('weight', 'bias'))
            outputs = {'logits': F.linear(maps[-1].mean((2, 3)), weight, bias)}
        golden.check(case, outputs, atol)


@pytest.mark.parametrize('name', golden.slow_if(ALL, 'small_cls', fast=('_cls', '_224x336')))
def test_equals_the_authors_model_in_float32(name):
    check_model(name, torch.float32, 2e-5)


@pytest.mark.parametrize('name', golden.slow_if(ALL, '_cls', '_224x336'))
def test_equals_the_authors_model_in_float64(name):
    check_model(name, torch.float64, 3e-6)


@pytest.mark.parametrize('name', ALL)
def test_parameter_names_are_the_released_ones(name):
    case = golden.CASES[name]
    with torch.device('meta'):
        model = STViTR(**arguments(case))
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    released = {key: tuple(shape) for key, shape, _ in golden.keys(case)}
    head = {key for key in released if key.startswith('head.')}
    dropped = {key for key in released if key in head or key.endswith('attn_mask')}
    assert own == {key: shape for key, shape in released.items() if key not in dropped}
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters + sum(math.prod(released[key]) for key in head) == case['parameters']
