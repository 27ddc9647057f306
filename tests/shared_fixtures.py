"""Fixtures for all tests: a seed per test, a GPU, parameters that are no initial values."""

import functools
import sys
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from golden.cases import SHIPPED
from mmengine.config import utils as config_utils
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from mmtoken.compat import prepare_hosts
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

prepare_hosts()
# for each `_base_ = 'mmdet::...'` mmengine reads a hundred metafiles of the host once more
config_utils.load = functools.cache(config_utils.load)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the golden cases that are not shipped as slow."""
    for item in items:
        name = getattr(item, 'callspec', None) and item.callspec.params.get('name')
        if item.path.name == 'test_golden.py' and name not in {*SHIPPED, None}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def seed():
    """Of the CPU alone: ``torch.manual_seed`` keeps a traceback for every device without a GPU."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_global_of_another_test():
    """Each test starts without a default scope or a visualizer, which may be another host's.

    And without compiled graphs: sizes that were seen before become symbols, which take minutes.
    """
    DefaultScope._instance_dict.clear()
    Visualizer._instance_dict.clear()
    if 'torch._dynamo' in sys.modules:
        torch.compiler.reset()


@pytest.fixture(scope='session', autouse=True)
def plain_config_texts():
    """Skip the formatting of config texts: every run writes its config several times.

    It takes most of the time of a small run, and changes white space only.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
            patch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)
        yield


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip('needs a CUDA device')
    torch.cuda.manual_seed(0)
    return torch.device('cuda')


@pytest.fixture
def fake_gpu(monkeypatch) -> AbstractContextManager:
    """A block in which CUDA tensors have shapes only, under float16 autocast; needs no GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, 'is_available', lambda: True)  # or autocast would be off
        autocast = torch.autocast('cuda', torch.float16)
    try:
        with FakeTensorMode():
            torch.empty(1, device='cuda')[:1]
    except RuntimeError:
        pytest.skip('this torch needs a GPU to index fake CUDA tensors')

    @contextmanager
    def block():
        with FakeTensorMode(allow_non_fake_inputs=True), autocast:
            yield

    return block()


def randomize(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that no constructor gives."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        scale = 0.1 if tensor.ndim <= 1 else tensor[0].numel() ** -0.5
        with torch.no_grad():
            noise = torch.randn_like(tensor) * scale
            around_one = tensor.ndim == 1 and name.endswith(('weight', 'running_var'))
            tensor.copy_(1 + noise if around_one else noise)
    return module


@pytest.fixture(name='randomize')
def randomize_fixture():
    return randomize
