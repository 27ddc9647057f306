import pytest
import torch
from mmtoken.tcformer.embed import OverlapPatchEmbed


@pytest.mark.parametrize(('side', 'patches'), [(32, 8), (29, 8), (33, 9), (7, 2)])
def test_grid_is_the_ceiling(side, patches):
    assert OverlapPatchEmbed(3, 8)(torch.randn(2, 3, side, 64)).shape == (2, 8, patches, 16)


def test_norm_epsilon_matters_on_flat_images():
    embed, flat = OverlapPatchEmbed(3, 8, norm_eps=1e-5), torch.full((1, 3, 32, 32), 0.01)
    other = OverlapPatchEmbed(3, 8, norm_eps=1e-6)
    other.load_state_dict(embed.state_dict())
    assert other.norm.eps == 1e-6
    assert (embed(flat) - other(flat)).abs().max() > 1e-3
