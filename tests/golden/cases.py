"""Golden cases: outputs of the authors' models for weights and inputs that a rule makes.

``tests/golden`` holds a few, thinned out to every eighth channel where they are large. Point
MMTOKEN_GOLDEN at a folder of the same layout to test all of its cases instead; a folder
``shared/golden`` beside the checkout is found by itself.
"""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
BESIDE = HERE.parents[2] / 'shared' / 'golden'


def folder() -> Path:
    """Where the cases are."""
    given = os.environ.get('MMTOKEN_GOLDEN')
    return Path(given) if given else (BESIDE if BESIDE.is_dir() else HERE)


def _load_fill():
    spec = importlib.util.spec_from_file_location('golden_fill', HERE / 'fill.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fill = _load_fill()
INDEX = json.loads((folder() / 'index.json').read_text())
SHIPPED = {case['name'] for case in json.loads((HERE / 'index.json').read_text())['cases']}
CASES = {case['name']: case for case in INDEX['cases'] if 'file' in case}


def names(start: str) -> list[str]:
    """Names of the cases that begin with ``start``; never empty, so that none is lost."""
    found = [name for name in CASES if name.startswith(start)]
    if not found:
        raise ValueError(f'no golden case starts with {start!r} in {folder()}')
    return found


def slow_if(found: list[str], *ends: str, fast: tuple[str, ...] = ('',)) -> list:
    """The names as parameters; those with one of the ends, or with none of ``fast``, are slow."""
    slow = {name for name in found if name.endswith(ends) or not name.endswith(fast)}
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in found]


@contextlib.contextmanager
def without_initial_values() -> Iterator[None]:
    """Draw no initial values: the rule gives all of them."""
    with contextlib.ExitStack() as stack:
        for name in ('trunc_normal_', 'normal_', 'kaiming_normal_', 'kaiming_uniform_', 'uniform_'):
            patch = mock.patch.object(torch.nn.init, name, lambda tensor, *_, **__: tensor)
            stack.enter_context(patch)
        yield


def keys(case: dict) -> list:
    """``[key, shape, dtype]`` of the released state dict, in order."""
    return json.loads((folder() / case['keys']).read_text())


def image(case: dict) -> torch.Tensor:
    """The input in float64."""
    array = fill.make_input(case['seed'], case['input_shape'])
    return torch.from_numpy(case.get('input_scale', 1) * array)


def state(case: dict, prefix: str = '') -> dict[str, torch.Tensor]:
    """The weights in float64; ``prefix`` selects and is stripped.

    Counters and fixed filters, which the rule leaves as constructed, are left out.
    """
    values = (
        (key, fill.fill(key, shape, case.get('weight_scale')))
        for key, shape, _ in keys(case)
        if key.startswith(prefix)
    )
    return {key[len(prefix) :]: torch.from_numpy(v) for key, v in values if v is not None}


def check(case: dict, outputs: dict[str, torch.Tensor], atol: float, partly: bool = False) -> None:
    """Compare every stored output; every one must have been computed, unless ``partly``."""
    stored = np.load(folder() / case['file'])
    channels = {output['name']: output.get('channels') for output in case['outputs']}
    assert set(stored.files) >= set(outputs), set(outputs) - set(stored.files)
    assert partly or set(stored.files) == set(outputs), set(stored.files) ^ set(outputs)
    for name in outputs:
        want, got = torch.from_numpy(stored[name]), outputs[name]
        if channels[name]:
            start, stop, step = channels[name]
            got = got[:, start:stop:step]
        if not want.is_floating_point():
            assert torch.equal(got, want.long()), name
            continue
        # float32 storage rounds large values more coarsely
        limit = max(atol, 1e-5) if want.abs().max() > 10 else atol
        torch.testing.assert_close(
            got.double(), want.double(), atol=limit, rtol=0, msg=lambda m, n=name: f'{n}: {m}'
        )
