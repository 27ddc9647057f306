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


@pytest.mark.parametrize('what', ['no_grad', 'no gradient needed'])
def test_without_a_backward_pass_it_is_a_plain_call(monkeypatch, what):
    monkeypatch.setattr('mmtoken.common.recompute.checkpoint', None)
    x, factor = rand(3, 4), rand(20)
    if what == 'no_grad':
        with torch.no_grad():
            got = recompute(wide, x, factor)
    else:
        got = recompute(wide, x.detach(), factor.detach())
    assert torch.equal(got, wide(x, factor))
