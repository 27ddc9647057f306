"""Every argument of every constructor either takes a value, and works, or names the argument."""

import inspect

import pytest
import torch
from mmengine.registry import MODELS
from rooms import BACKBONES, smallest_id

NAN, INF = float('nan'), float('inf')
VALUES = [None, 'text', NAN, INF, -1, 0, 1.5, True, (), (1,), (1,) * 9, ('a',) * 4, (NAN,) * 3]
HOST_OWN = {'self', 'init_cfg', 'pretrained'}  # mmengine checks them later


def arguments_of(backbone):
    return sorted({*inspect.signature(MODELS.get(backbone['type'])).parameters} - HOST_OWN)


CASES = [
    pytest.param(backbone, name, id=f'{smallest_id(backbone)}-{name}')
    for backbone in BACKBONES
    for name in arguments_of(backbone)
]


def check(config, name, value):
    """Build and run; the only error is one that names the argument."""
    try:
        model = MODELS.build(config).eval()
    except ValueError as error:
        assert name in str(error), f'{name}={value!r}: the message does not name it: {error}'
        return
    with torch.no_grad():
        channels = config['in_channels'] if name == 'in_channels' else 3
        maps = model(torch.randn(1, channels, 40, 56))
    assert all(torch.isfinite(getattr(x, 'x', x)).all() for x in maps), f'{name}={value!r}'


@pytest.mark.parametrize(('backbone', 'name'), CASES)
def test_arguments(backbone, name):
    for value in VALUES:
        check(dict(backbone, **{name: value}), name, value)


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_entries_of_arch(backbone):
    arch = backbone['arch']
    for name in arch if isinstance(arch, dict) else ():
        for value in VALUES:
            check(dict(backbone, arch=dict(arch, **{name: value})), name, value)


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_numpy_and_lists_are_welcome(backbone):
    import numpy as np

    config = dict(backbone, out_indices=[np.int64(0)], in_channels=np.int64(3))
    with torch.no_grad():
        assert len(MODELS.build(config).eval()(torch.randn(1, 3, 40, 56))) == 1
