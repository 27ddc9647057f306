"""Every argument of every registered class either takes a value, and works, or names the argument.

The arguments are those of the signatures, and the entries of a dict ``arch``.
"""

import functools
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from rooms import BACKBONES, READERS, REGISTERED, ROOTS, smallest_id

NAN, INF = float('nan'), float('inf')
VALUES = [None, 'text', NAN, INF, -1, 0, 1.5, True, (), (1,), (1,) * 9, ('a',) * 4, (NAN,) * 3]
VALUES += [{}, dict(kind=1), dict(type='Nothing'), [{}]]
README = Path(__file__).parents[1] / 'README.md'
CONFIGS = [(backbone, None) for backbone in BACKBONES] + READERS
IDS = [smallest_id(config) for config, _ in CONFIGS]


@functools.cache
def features(index: int) -> tuple:
    """Output of the backbone that a reader reads."""
    backbone = MODELS.build(CONFIGS[index][1]).eval()
    with torch.no_grad():
        return backbone(torch.randn(1, 3, 40, 56))


def is_legal(index: int, name: str, config: dict) -> bool:
    """Build and run; the only error is one that names the argument."""
    reads = CONFIGS[index][1]
    try:
        model = MODELS.build(config).eval()
        channels = config['in_channels'] if name == 'in_channels' else 3
        with torch.no_grad():
            maps = model(features(index) if reads else torch.randn(1, channels, 40, 56))
    except ValueError as error:
        assert name in str(error), f'the message does not name {name}: {error}'
        return False
    maps = [maps] if isinstance(maps, torch.Tensor) else maps
    assert all(torch.isfinite(getattr(x, 'x', x)).all() for x in maps)
    return True


def variants(config: dict) -> dict[str, list[dict]]:
    """Argument or ``arch.entry`` -> the configs in which it takes each of the values."""
    names = set(inspect.signature(MODELS.get(config['type'])).parameters) - {'self'}
    found = {name: [dict(config, **{name: value}) for value in VALUES] for name in sorted(names)}
    arch = config.get('arch')
    for entry in arch if isinstance(arch, dict) else ():
        archs = [dict(arch, **{entry: value}) for value in VALUES]
        found[f'arch.{entry}'] = [dict(config, arch=one) for one in archs]
    return found


@pytest.mark.parametrize('index', range(len(CONFIGS)), ids=IDS)
def test_values_work_or_are_refused(index):
    """Each value of each argument; the figures are in tests/README.md."""
    config, wrong, legal = CONFIGS[index][0], [], 0
    if MODELS.get(config['type']) is None:
        pytest.skip(f'the host of {config["type"]} is not installed')
    for name, configs in variants(config).items():
        for value, one in zip(VALUES, configs):
            try:
                legal += is_legal(index, name.removeprefix('arch.'), one)
            except Exception as error:
                wrong.append(f'{name}={value!r}: {type(error).__name__}: {error}')
    assert not wrong, '\n'.join(wrong)
    arguments = len(variants(config))
    cases = arguments * len(VALUES)
    row = f'| `{IDS[index]}` | {arguments} | {cases} | {legal} | {cases - legal} |'
    if row not in README.read_text().splitlines():
        pytest.fail(f'update the row in {README}: {row}')


def test_every_registered_class_is_covered():
    """Or it takes the arguments of its host only, or is a hook, which the room's tests cover."""
    covered = {config['type'] for config, _ in CONFIGS}
    for one in REGISTERED:
        cls = ROOTS[one.registry].get(one.name)
        takes_own = cls is not None and one.registry != 'HOOKS' and '__init__' in vars(cls)
        assert one.name in covered or not takes_own, f'{one.name}: add it to a smallest.py'


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_numpy_and_lists_are_welcome(backbone):
    config = dict(backbone, out_indices=[np.int64(0)], in_channels=np.int64(3))
    with torch.no_grad():
        assert len(MODELS.build(config).eval()(torch.randn(1, 3, 40, 56))) == 1
