"""Plans: what masks hide, which patches crops hold, how tiles cover a map."""

import pytest
import torch
from mmtoken.stvit import reference
from mmtoken.stvit.plan import Geometry, crop_index, plan_recovery, visible_keys
from parity import CPU
from stvit.smallest import SIZES


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('mask', ['released', 'exact', 'none'])
@pytest.mark.parametrize('of', ['patches', 'semantic'])
def test_visible_keys(hw, mask, of):
    geometry = Geometry(hw)
    visible, outside = visible_keys(geometry, of, mask, CPU[0])
    height, width = geometry.padded_hw if of == 'patches' else geometry.semantic_hw
    added = torch.tensor(
        [
            [reference.mask_value(geometry, of, mask, row, col) for col in range(-1, width + 1)]
            for row in range(-1, height + 1)
        ]
    )
    if added.eq(reference.MASKED).all():  # hides all, which is nothing
        added.zero_()
    assert outside == added[0].eq(0).all()
    if visible is None:
        visible = torch.ones(height, width, dtype=torch.bool)
    assert torch.equal(visible, added[1:-1, 1:-1].eq(0))


def count_visible(hw):
    """Count the semantic tokens that a released mask leaves to recovery."""
    geometry = Geometry(hw)
    visible, _ = visible_keys(geometry, 'semantic', 'released', CPU[0])
    rows, cols = geometry.semantic_hw
    return rows * cols if visible is None else int(visible.sum())


def test_released_masks_hide_what_was_measured():
    """Visible of all semantic tokens in recovery, by the size of the image (stride 16)."""
    measured = {
        (800, 1344): 648,  # of 864
        (768, 1344): 720,  # of 756
        (512, 512): 216,  # of 225
        (1024, 1024): 864,  # of 900
        (480, 640): 260,  # of 270
        (608, 1088): 532,  # of 540
    }
    for (height, width), count in measured.items():
        assert count_visible((height // 16, width // 16)) == count
    assert count_visible((14, 14)) == 36  # nothing is hidden, not even the outside


def test_crops_of_the_released_size():
    index = crop_index(Geometry((14, 14)), 3, CPU[0])
    assert index.shape == (4, 100)
    assert index[:, 0].tolist() == [0, 4, 4 * 14, 4 * 14 + 4]
    assert index[:, -1].tolist() == [9 * 14 + 9, 9 * 14 + 13, 13 * 14 + 9, 13 * 14 + 13]


@pytest.mark.parametrize('hw', SIZES)
def test_crops_lie_in_the_map_and_cover_their_window(hw):
    geometry = Geometry(hw)
    for (row, col), crop in zip(
        reference.windows(geometry.grid), crop_index(geometry, 3, CPU[0]).tolist()
    ):
        own = {
            r * hw[1] + c
            for r in range(7 * row, min(7 * row + 7, hw[0]))
            for c in range(7 * col, min(7 * col + 7, hw[1]))
        }
        assert own <= set(crop) <= set(range(hw[0] * hw[1]))


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
