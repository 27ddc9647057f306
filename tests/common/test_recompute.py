"""Recomputation: the same outputs and gradients, and intermediate results that are not kept."""

import pytest
import torch
from mmtoken.common.recompute import recompute
from parity import check_equal, rand


def wide(x, factor):
    return (x[..., None] * factor).sin().exp().sum(-1)


def kept(call):
    """Elements that the backward pass keeps."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()), lambda t: t):
        call()
    return sum(sizes)


def test_equals_a_plain_call():
    x, factor = rand(3, 4), rand(20)
    check_equal(recompute(wide, x, factor), wide(x, factor), dict(x=x, factor=factor))


def test_keeps_the_arguments_alone():
    x, factor = rand(3, 4), rand(20)
    assert kept(lambda: wide(x, factor)) > 2 * 3 * 4 * 20
    assert kept(lambda: recompute(wide, x, factor)) <= x.numel() + factor.numel()


@pytest.mark.parametrize('random', [False, True])
def test_random_numbers_are_drawn_again_where_there_are_any(random):
    x = rand(1000)
    dropped = recompute(torch.dropout, x, 0.5, True, is_random=random)
    torch.rand(1)
    dropped.sum().backward()
    assert torch.equal(x.grad, (dropped != 0) * 2.0) == random


def test_inference_is_a_plain_call(monkeypatch):
    monkeypatch.setattr('mmtoken.common.recompute.checkpoint', None)
    x, factor = rand(3, 4), rand(20)
    with torch.no_grad():
        assert torch.equal(recompute(wide, x, factor), wide(x, factor))
