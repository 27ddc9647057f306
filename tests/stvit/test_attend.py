"""Pooling and attention against their twins in loops, at odd sizes."""

from itertools import product

import pytest
import torch
from mmtoken.stvit import reference
from mmtoken.stvit.attend import attend_neighborhood, attend_tiles
from mmtoken.stvit.plan import Geometry, plan_neighborhood, plan_recovery
from mmtoken.stvit.steps import pool_windows
from parity import CPU, check_equal, rand
from stvit.smallest import SIZES

MASKS = ['released', 'exact', 'none']
SMALL = Geometry((3, 2), window_size=2, semantic_window=1)


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('ignore_padding', [False, True])
def test_pool_windows(hw, ignore_padding):
    geometry, x = Geometry(hw), rand(2, *hw, 3)
    got = pool_windows(x, geometry, ignore_padding)
    check_equal(got, reference.pool_windows(x, geometry, ignore_padding), dict(x=x))


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('kernel', [7, 14, 21])
def test_attend_neighborhood(hw, mask, kernel):
    geometry = Geometry(hw)
    q, kv, outside = rand(2, *geometry.semantic_hw, 4), rand(2, *hw, 8), rand(8)
    got = attend_neighborhood(q, kv, outside, 2, plan_neighborhood(geometry, kernel, mask, *CPU))
    want = reference.attend_neighborhood(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize(
    ('mask', 'kernel'),
    [('released', 27), *((mask, k) for mask in ('exact', 'none') for k in (3, 6, 27, None))],
)
@pytest.mark.parametrize(('hw', 'tile'), [*product(SIZES, (1, 4, None)), ((36, 22), None)])
def test_attend_tiles(hw, mask, kernel, tile):
    geometry = Geometry(hw)
    q, kv, outside = rand(1, *hw, 4), rand(1, *geometry.semantic_hw, 8), rand(8)
    tiles = plan_recovery(geometry, kernel, mask, *CPU, tile=tile)
    got = attend_tiles(q, kv, outside, 2, tiles)
    want = reference.attend_tiles(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize('mask', MASKS)
def test_gradients_of_neighborhoods(mask):
    q, kv, outside = rand(1, *SMALL.semantic_hw, 2), rand(1, 3, 2, 4), rand(4)
    near = plan_neighborhood(SMALL, 3, mask, *CPU)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_neighborhood(q, kv, o, 1, near), (q, kv, outside)
    )


@pytest.mark.parametrize('mask', ['exact', 'none'])
def test_gradients_of_tiles(mask):
    q, kv, outside = rand(1, 3, 2, 2), rand(1, *SMALL.semantic_hw, 4), rand(4)
    tiles = plan_recovery(SMALL, 3, mask, *CPU, tile=1)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_tiles(q, kv, o, 1, tiles), (q, kv, outside)
    )
