"""Recovery in tiles against its twin, window by window, at odd sizes."""

import pytest
import torch
from mmtoken.stvit import reference
from mmtoken.stvit.recovery import attend_tiles, plan_recovery
from mmtoken.stvit.semantic_tokens import Geometry
from parity import CPU, check_equal, rand
from stvit.smallest import SIZES


@pytest.mark.parametrize('hw', [*SIZES, (36, 22)])
@pytest.mark.parametrize(
    ('mask', 'kernel'),
    [('released', 27), *((mask, k) for mask in ('exact', 'none') for k in (3, 6, 27, None))],
)
@pytest.mark.parametrize('tile', [1, 4, 99])
def test_attend_tiles(hw, mask, kernel, tile):
    geometry = Geometry(hw)
    q, kv, outside = rand(1, *hw, 4), rand(1, *geometry.semantic_hw, 8), rand(8)
    tiles = plan_recovery(geometry, kernel, mask, *CPU, tile=tile)
    got = attend_tiles(q, kv, outside, 2, tiles)
    want = reference.attend_tiles(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize('mask', ['exact', 'none'])
def test_gradcheck(mask):
    geometry = Geometry((3, 2), window_size=2, semantic_window=1)
    q, kv, outside = rand(1, 3, 2, 2), rand(1, *geometry.semantic_hw, 4), rand(4)
    tiles = plan_recovery(geometry, 3, mask, *CPU, tile=1)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_tiles(q, kv, o, 1, tiles), (q, kv, outside)
    )


def test_no_bias_where_every_patch_sees_everything():
    """Five windows of a side lie within the reach of each other."""
    for mask, biased in (('exact', False), ('none', True)):
        (tile,) = plan_recovery(Geometry((35, 28)), 27, mask, *CPU, tile=5)
        assert (tile.bias is not None) == biased == tile.sees_outside


def test_tiles_cover_each_patch_once():
    seen = torch.zeros(50, 84)
    for tile in plan_recovery(Geometry((50, 84)), 27, 'exact', *CPU):
        seen[tile.rows, tile.cols] += 1
    assert (seen == 1).all()
