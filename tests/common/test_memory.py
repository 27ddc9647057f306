"""Chunks and recomputation give the same outputs and gradients as a plain call."""

import pytest
import torch
from mmtoken.common.layers import Mlp
from mmtoken.common.memory import LARGE, ROWS, map_chunks, recompute, recompute_if_large
from parity import check_equal, rand


def pair(x, weight):
    return x.cumsum(2) * weight


@pytest.mark.parametrize('rows', [1, 7, 40, 10**6])
@pytest.mark.parametrize('batch', [1, 3])
def test_chunks_equal_the_whole(batch, rows):
    x, weight = rand(batch, 11, 4, 5), rand(1, 11, 1, 1)
    got = map_chunks(pair, x, weight, rows=rows)
    check_equal(got, pair(x, weight), dict(x=x, weight=weight))


def chunk_sizes(x, rows):
    sizes = []

    def note(chunk):
        sizes.append(chunk.shape[1])
        return chunk

    map_chunks(note, x, rows=rows)
    return sizes


def test_rows_of_a_chunk(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert chunk_sizes(torch.zeros(3, 11, 4, 5), 24) == [4, 4, 3]  # 48 rows, 12 to an index
    assert chunk_sizes(torch.zeros(3, 11, 4, 5), 1) == [1] * 11
    assert chunk_sizes(torch.zeros(3, 4, 4, 5), 24) == [4]


@pytest.mark.parametrize('shape', [(2, 0, 5), (0, 3, 5)])
def test_empty_inputs_are_one_chunk(shape):
    assert chunk_sizes(torch.zeros(shape), 1) == [shape[1]]


def test_other_devices_take_it_whole():
    assert chunk_sizes(torch.zeros(3, 11, 5, device='meta'), 1) == [11]


def test_mlp_of_many_rows(randomize, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    mlp, x = randomize(Mlp(3, 5)).double(), rand(2, ROWS, 3)
    want = mlp.fc2(mlp.act(mlp.fc1(x)))
    check_equal(mlp(x), want, dict(mlp.named_parameters(), x=x))


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


def test_large_inputs_only():
    factor, small, large = rand(2), rand(2, LARGE // 2), rand(1, LARGE + 1)
    check_equal(recompute_if_large(wide, large, factor), wide(large, factor), dict(factor=factor))
    assert kept(lambda: recompute_if_large(wide, large, factor)) <= large.numel() + factor.numel()
    assert kept(lambda: recompute_if_large(wide, small, factor)) == kept(
        lambda: wide(small, factor)
    )


@pytest.mark.parametrize('random', [False, True])
def test_random_numbers_are_drawn_again_where_there_are_any(random):
    x = rand(1000)
    dropped = recompute(torch.dropout, x, 0.5, True, is_random=random)
    torch.rand(1)
    dropped.sum().backward()
    assert torch.equal(x.grad, (dropped != 0) * 2.0) == random


def test_inference_is_a_plain_call(monkeypatch):
    monkeypatch.setattr('mmtoken.common.memory.checkpoint', None)
    x, factor = rand(3, 4), rand(20)
    with torch.no_grad():
        assert torch.equal(recompute(wide, x, factor), wide(x, factor))
