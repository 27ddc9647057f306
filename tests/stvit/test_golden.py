"""Equality with the authors' models on every golden case that is present."""

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


def build(case, dtype=torch.float64):
    """Build the released model and give it the weights of the case; return its head too."""
    model = STViTR(**arguments(case)).to(dtype).eval()
    state = golden.state(case)
    head = {key: state.pop(key).to(dtype) for key in list(state) if key.startswith('head.')}
    kept = {key: value for key, value in model.state_dict().items() if key not in state}
    assert all(key.endswith(('relative_position_index', 'num_batches_tracked')) for key in kept)
    model.load_state_dict({**state, **kept}, strict=True)
    return model, head


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
@pytest.mark.parametrize('recording', [False, True], ids=['', 'recording'])
@torch.no_grad()
def test_equals_the_authors_model(name, dtype, recording):
    case = golden.CASES[name]
    model, head = build(case, dtype)
    image = golden.image(case).to(dtype)
    if recording:
        with record_tokens(model) as recorder:
            maps = model(image)
        assert len(recorder.attention) == sum(model.depths)
    else:
        maps = model(image)
    outputs = {f'map{i}': value for i, value in enumerate(maps)}
    if head:
        pooled = maps[-1].mean((2, 3))
        outputs = {'logits': F.linear(pooled, head['head.weight'], head['head.bias'])}
    golden.check(case, outputs, 3e-6 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize('name', ALL)
def test_parameter_names_are_the_released_ones(name):
    case = golden.CASES[name]
    model, head = build(case)
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    released = {key: tuple(shape) for key, shape, _ in golden.keys(case)}
    dropped = {key for key in released if key in head or key.endswith('attn_mask')}
    assert own == {key: shape for key, shape in released.items() if key not in dropped}
    parameters = sum(p.numel() for p in model.parameters()) + sum(v.numel() for v in head.values())
    assert parameters == case['parameters']
