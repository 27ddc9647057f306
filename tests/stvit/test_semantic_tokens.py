"""Pooling and generation of semantic tokens against their twins in loops, at odd sizes."""

import pytest
import torch
from mmtoken.stvit import reference
from mmtoken.stvit.semantic_tokens import (
    Geometry,
    attend_neighborhood,
    crop_index,
    plan_neighborhood,
    pool_windows,
    real_semantic_tokens,
    visible_keys,
)
from parity import CPU, check_equal, rand
from stvit.smallest import SIZES

MASKS = ['released', 'exact', 'none']


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('ignore_padding', [False, True])
def test_pool_windows(hw, ignore_padding):
    geometry, x = Geometry(hw), rand(2, *hw, 3)
    got = pool_windows(x, geometry, ignore_padding)
    check_equal(got, reference.pool_windows(x, geometry, ignore_padding), dict(x=x))


def test_real_semantic_tokens():
    for hw in SIZES:
        geometry = Geometry(hw)
        real = real_semantic_tokens(geometry, CPU[0])
        for row, col in reference.windows(geometry.semantic_hw):
            assert real[row, col] == reference.is_real(geometry, 'semantic', row, col)


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('kernel', [7, 14, 21])
def test_attend_neighborhood(hw, mask, kernel):
    geometry = Geometry(hw)
    q, kv, outside = rand(2, *geometry.semantic_hw, 4), rand(2, *hw, 8), rand(8)
    got = attend_neighborhood(q, kv, outside, 2, plan_neighborhood(geometry, kernel, mask, *CPU))
    want = reference.attend_neighborhood(q, kv, outside, 2, geometry, kernel, mask)
    check_equal(got, want, dict(q=q, kv=kv, outside=outside))


@pytest.mark.parametrize('mask', MASKS)
def test_gradcheck(mask):
    geometry = Geometry((3, 2), window_size=2, semantic_window=1)
    q, kv, outside = rand(1, *geometry.semantic_hw, 2), rand(1, 3, 2, 4), rand(4)
    near = plan_neighborhood(geometry, 3, mask, *CPU)
    assert torch.autograd.gradcheck(
        lambda q, kv, o: attend_neighborhood(q, kv, o, 1, near), (q, kv, outside)
    )


def count_visible(hw):
    """Semantic tokens that a released mask leaves to recovery; all of them where it is None."""
    geometry = Geometry(hw)
    visible, outside = visible_keys(geometry, 'semantic', 'released', CPU[0])
    assert outside == (visible is None)
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
