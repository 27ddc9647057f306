"""Weights of windows land on the patches that they belong to, and nowhere else."""

import pytest
import torch
from mmtoken.stvit.attention_maps import crop_attention, neighborhood_attention
from mmtoken.stvit.plan import Geometry, Neighborhood, crop_index
from mmtoken.stvit.reference import windows

SIZES = [(5, 9), (14, 14), (8, 20)]


def tokens_of(geometry):
    """Window, place in it, and place in the raster of all semantic tokens."""
    across = geometry.semantic_hw[1]
    for number, (row, col) in enumerate(windows(geometry.grid)):
        for place, (r, c) in enumerate(windows((3, 3))):
            yield number, (row, col), place, (3 * row + r) * across + 3 * col + c


@pytest.mark.parametrize('hw', SIZES)
@pytest.mark.parametrize('kernel', [14, 21])
def test_neighborhoods(hw, kernel):
    geometry = Geometry(hw)
    count = geometry.grid[0] * geometry.grid[1]
    weights = torch.rand(2 * count, 3, 9, kernel * kernel)
    found = neighborhood_attention(weights, Neighborhood(geometry, kernel))
    want = torch.zeros(2, 9 * count, *hw)
    reach = (kernel - 7) // 2
    for number, (row, col), place, token in tokens_of(geometry):
        for at, (r, c) in enumerate(windows((kernel, kernel))):
            down, across = 7 * row - reach + r, 7 * col - reach + c
            if 0 <= down < hw[0] and 0 <= across < hw[1]:
                mean = weights.unflatten(0, (2, count))[:, number, :, place, at].mean(1)
                want[:, token, down, across] = mean
    torch.testing.assert_close(found, want.flatten(2))


@pytest.mark.parametrize('hw', SIZES)
def test_crops(hw):
    geometry = Geometry(hw)
    index = crop_index(geometry, 3, torch.device('cpu'))
    weights = torch.rand(2 * len(index), 3, 9, 9 + index.shape[1])
    found = crop_attention(weights, geometry, index)
    want = torch.zeros(2, 9 * len(index), hw[0] * hw[1])
    for number, _, place, token in tokens_of(geometry):
        own = weights.unflatten(0, (2, len(index)))[:, number, :, place, 9:].mean(1)
        want[:, token, index[number]] = own
    torch.testing.assert_close(found, want)
