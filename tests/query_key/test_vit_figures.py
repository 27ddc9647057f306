import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.query_key.attention import GridAttention, Group
from mmtoken.query_key.vit_figures import (
    draw_distances,
    draw_filters,
    draw_positions,
    find_filters,
    find_positions,
    mean_distance,
    position_similarity,
    principal_filters,
)
from torch import nn

VIT = dict(
    type='PlainViT',
    arch=dict(embed_dims=16, depth=1, num_heads=2, hidden_dim=16),
    patch_size=8,
    img_size=32,
)


def grid_attention(weights, hw):
    cells = torch.arange(hw[0] * hw[1])
    return GridAttention([Group(weights, cells, cells)], cells.view(hw), cells.view(hw))


def test_distance_is_that_of_a_loop():
    hw, weights = (3, 5), torch.rand(2, 15, 15).double().softmax(-1)
    want = torch.zeros(2).double()
    for i in range(15):
        for j in range(15):
            apart = 8 * ((i // 5 - j // 5) ** 2 + (i % 5 - j % 5) ** 2) ** 0.5
            want += weights[:, i, j] * apart / 15
    got = mean_distance(grid_attention(weights, hw), (24, 40))
    torch.testing.assert_close(got, want)
    assert (mean_distance(grid_attention(torch.eye(15)[None], hw), (24, 40)) == 0).all()


@pytest.mark.parametrize('class_token', [True, False])
def test_positions_of_patches(randomize, class_token):
    model = randomize(MODELS.build(VIT | dict(class_token=class_token)))
    found = find_positions(model)
    assert found.shape == (4, 4, 16)
    want = model.pos_embed[0, 5].double()
    torch.testing.assert_close(found[1, 1], want)
    similarity = position_similarity(found)
    torch.testing.assert_close(similarity[1, 1, 1, 1].item(), 1.0)
    other = found[3, 2]
    cos = (want @ other / want.norm() / other.norm()).item()
    torch.testing.assert_close(similarity[1, 1, 3, 2].item(), cos)
    assert len(draw_positions(found).axes) == 17  # and the bar of colours


def test_positions_of_other_tokens_and_grids():
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
    model.pos_embed = nn.Parameter(torch.randn(1, 10, 8))
    want = model.pos_embed[0, 1:].double()
    torch.testing.assert_close(find_positions(model).flatten(0, 1), want)
    model.pos_embed = nn.Parameter(torch.randn(1, 8, 3, 3))
    assert find_positions(model)[2, 1].tolist() == model.pos_embed[0, :, 2, 1].tolist()
    model.pos_embed = nn.Parameter(torch.randn(1, 7, 8))
    assert find_positions(model) is None


def test_principal_filters_are_those_of_the_covariance(randomize):
    filters = find_filters(randomize(MODELS.build(VIT)))
    parts, shares = principal_filters(filters, 3)
    rows = filters.flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(shares, (values[::-1] / values.sum())[:3])
    for part, vector in zip(parts.flatten(1).numpy(), vectors.T[::-1]):
        assert abs(part @ vector) == pytest.approx(1)
    assert draw_filters(filters).axes[0].images[0].get_array().shape == (8, 8, 3)


def test_models_without():
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1))
    assert find_filters(stem) is None and find_positions(stem) is None
    assert find_filters(nn.Linear(2, 2)) is None


def test_distances_by_layer():
    axes = draw_distances({'a': torch.tensor([1.0, 2.0]), 'b': torch.tensor([3.0, 4.0])}).axes[0]
    assert [one.get_text() for one in axes.get_xticklabels()] == ['a', 'b']
    assert axes.collections[1].get_offsets().tolist() == [[1, 3], [1, 4]]
