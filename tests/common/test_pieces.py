"""Pieces: what is cut for speed gives the same outputs and gradients as the whole."""

import pytest
import torch
from mmtoken.common.layers import Mlp
from mmtoken.common.pieces import ROWS, map_pieces
from parity import check_equal, rand


def pair(x, weight):
    return x.cumsum(2) * weight


@pytest.mark.parametrize('rows', [1, 7, 40, 10**6])
@pytest.mark.parametrize('batch', [1, 3])
def test_pieces_equal_the_whole(batch, rows):
    x, weight = rand(batch, 11, 4, 5), rand(1, 11, 1, 1)
    got = map_pieces(pair, x, weight, rows=rows)
    check_equal(got, pair(x, weight), dict(x=x, weight=weight))


def count_pieces(x, rows):
    sizes = []

    def note(piece):
        sizes.append(piece.shape[1])
        return piece

    map_pieces(note, x, rows=rows)
    return sizes


def test_a_piece_has_the_rows_asked_for(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert count_pieces(torch.zeros(3, 11, 4, 5), 24) == [4, 4, 3]  # 48 rows, 12 to an index
    assert count_pieces(torch.zeros(3, 11, 4, 5), 1) == [1] * 11
    assert count_pieces(torch.zeros(3, 4, 4, 5), 24) == [4]


@pytest.mark.parametrize('shape', [(2, 0, 5), (0, 3, 5)])
def test_nothing_is_one_piece(shape):
    assert count_pieces(torch.zeros(shape), 1) == [shape[1]]


def test_other_devices_take_it_whole():
    assert count_pieces(torch.zeros(3, 11, 5, device='meta'), 1) == [11]


def test_mlp_of_many_rows(randomize, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    mlp, x = randomize(Mlp(3, 5)).double(), rand(2, ROWS, 3)
    want = mlp.fc2(mlp.act(mlp.fc1(x)))
    check_equal(mlp(x), want, dict(mlp.named_parameters(), x=x))
