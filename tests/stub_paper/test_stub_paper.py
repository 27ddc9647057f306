"""A paper that is defined outside the package is served like any other.

The contracts and the drawing tool find it by ``smallest.py``; the rest is here. Nothing in the
package, the tools or the shared tests mentions it.
"""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.analysis.counting import count_complexity
from mmtoken.analysis.maps import draw_maps
from mmtoken.analysis.published import count_as_published
from rooms import BACKBONES
from torch import nn

STUB = dict(type='StubBackbone', arch='tiny')


@pytest.fixture
def model():
    return MODELS.build(STUB).eval()


def test_the_contracts_find_it():
    assert STUB in BACKBONES


def test_it_is_counted(model):
    image = torch.zeros(1, 3, 64, 96)
    ours = count_complexity(model, lambda: model(image))
    theirs = count_as_published(model, lambda: model(image))
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    assert ours.macs_of('clustering') == 8 * 8 * sum(n * d for n, d in zip(cells, (1, 1, 2, 1)))
    assert ours.macs_of('attention') == 2 * 8 * sum(n * n * d for n, d in zip(cells, (1, 1, 2, 1)))
    stem = cells[0] * 8 * 3 * 49
    assert ours.macs['stem'] == dict(conv=stem) and list(ours.macs)[-1] == 'stage 4'
    assert theirs.total_macs - ours.total_macs == stem


def test_it_is_counted_next_to_others(model):
    both = nn.ModuleList([model, MODELS.build(BACKBONES[0]).eval()])
    image = torch.zeros(1, 3, 64, 96)
    assert (
        count_as_published(both, lambda: [part(image) for part in both]).total_macs
        > count_complexity(both, lambda: [part(image) for part in both]).total_macs
    )


def test_it_is_drawn(model):
    image = np.zeros((64, 96, 3), np.uint8)
    names = list(draw_maps(model, torch.randn(1, 3, 64, 96), [image])[0])
    assert names[:2] == ['stage1', 'stage1_values'] and len(names) == 8


@pytest.mark.parametrize('convention', ['ours', 'theirs'])
def test_its_checkpoints_load_strictly(model, convention, tmp_path):
    state = model.state_dict()
    if convention == 'theirs':
        state = {key.replace('stem.', 'conv1.'): value for key, value in state.items()}
    torch.save(state, tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    small = MODELS.build(dict(STUB, out_indices=(1,), init_cfg=init_cfg))  # without two stages
    small.init_weights()
    for key, value in small.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    del state[next(key for key in state if key.startswith('stage2'))]
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'(?s)StubBackbone.*missing: stage2'):
        MODELS.build(dict(STUB, init_cfg=init_cfg)).init_weights()
