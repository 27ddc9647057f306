"""Tracing, exporting and quantising at sizes that are no multiple of a window; empty batches."""

import copy

import pytest
import torch
from mmtoken import STViTDeiT, STViTR, STViTSwin
from stvit import smallest
from torch import nn
from torch.ao.quantization import quantize_dynamic

TINY = dict(smallest.TINY, depths=(2, 1, 6, 1))
BACKBONES = {
    'dense': lambda: STViTR(TINY),
    'released': lambda: STViTR(TINY, mask='released'),
    'classification': lambda: STViTR(TINY, 'classification', use_global_center=True),
    'swin': lambda: STViTSwin(smallest.SWIN, out_indices=(0, 1, 2, 3)),
    'deit': lambda: STViTDeiT(smallest.DEIT, out_indices=(0, 1)),
}
pytestmark = pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')


@pytest.fixture(params=['released', 'classification'])  # tests/contracts has the others
def model(request, randomize):
    return randomize(BACKBONES[request.param]()).eval()


def check(maps, expected, **tolerance):
    assert len(maps) == len(expected)
    for got, want in zip(maps, expected):
        torch.testing.assert_close(got, want, **tolerance)


@pytest.mark.parametrize('hw', [(36, 130), pytest.param((70, 90), marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_trace_equals_the_model(model, hw):
    model.double()
    image, other = torch.randn(2, 2, 3, *hw).double()
    traced = torch.jit.trace(model, (image,), check_trace=False)
    check(traced(other), model(other))


@pytest.mark.parametrize(
    'model',
    ['deit', *(pytest.param(k, marks=pytest.mark.slow) for k in ('dense', 'swin'))],
    indirect=True,
)
@torch.no_grad()
def test_exports_with_any_batch(model):
    batch = torch.export.Dim('batch', min=1, max=8)
    image, other = torch.randn(2, 3, 36, 50), torch.randn(3, 3, 36, 50)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},))
    check(exported.module()(other), model(other))


@torch.no_grad()
def test_every_linear_can_be_quantised(model):
    quantised = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    image = torch.randn(2, 3, 70, 90)
    for got, want in zip(quantised(image), model(image)):
        assert (got - want).norm() < 0.1 * want.norm()


def test_an_empty_batch_gives_empty_maps(model):
    expected = [(0, *m.shape[1:]) for m in model(torch.randn(1, 3, 70, 90))]
    maps = model.train()(torch.randn(0, 3, 70, 90))
    assert [tuple(m.shape) for m in maps] == expected
    sum(m.sum() for m in maps).backward()
