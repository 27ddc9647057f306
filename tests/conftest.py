"""Fixtures for all tests: a seed per test, parameters that are no initial values, golden cases."""

import os

# Two cores shared with others: spinning threads would wait for each other
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import pytest
import torch
from mmtoken.compat import prepare_hosts
from torch import nn

prepare_hosts()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomize(module: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that no constructor gives."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        scale = 0.1 if tensor.ndim <= 1 else tensor[0].numel() ** -0.5
        with torch.no_grad():
            noise = torch.randn_like(tensor) * scale
            tensor.copy_(1 + noise if tensor.ndim == 1 and name.endswith('weight') else noise)
    return module


@pytest.fixture(name='randomize')
def randomize_fixture():
    return randomize
