import copy
import pickle

import pytest
import torch
from mmtoken.tcformer import reference
from mmtoken.tcformer.bags import Bags, group_rows
from mmtoken.tcformer.tokens import (
    TokenSet,
    interpolate_tokens,
    map_index,
    map_to_tokens,
    tokens_to_map,
)
from torch import nn
from torch.nn import functional as F

SIZES = [((1, 1), (1, 1)), ((7, 5), (4, 3)), ((9, 6), (9, 6)), ((5, 11), (7, 4))]


def random_tokens(init_hw, hw, count, dim=3, batch=2):
    cells = init_hw[0] * init_hw[1]
    # every token owns a cell, the rest at random
    extra = torch.randint(count, (batch, cells - count))
    owner = torch.cat([torch.arange(count).expand(batch, -1), extra], 1)
    owner = torch.stack([row[torch.randperm(cells)] for row in owner])
    x = torch.randn(batch, count, dim, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(batch, cells, 1, dtype=torch.float64) + 0.1
    return TokenSet(x, owner, weight, init_hw, hw)


def check_same(fast, slow, *inputs):
    torch.testing.assert_close(fast, slow)
    probe = torch.randn_like(fast)
    grads = [torch.autograd.grad((out * probe).sum(), inputs) for out in (fast, slow)]
    for name, got, want in zip('ab', *grads):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'gradient of {n}: {m}')


@pytest.mark.parametrize(('init_hw', 'hw'), SIZES)
def test_tokens_to_map_equals_its_twin(init_hw, hw):
    tokens = random_tokens(init_hw, hw, max(init_hw[0] * init_hw[1] // 3, 1))
    check_same(tokens_to_map(tokens), reference.tokens_to_map(tokens), tokens.x)


@pytest.mark.parametrize(('init_hw', 'hw'), SIZES)
def test_map_to_tokens_equals_its_twin(init_hw, hw):
    tokens = random_tokens(init_hw, hw, max(init_hw[0] * init_hw[1] // 3, 1))
    feature_map = torch.randn(2, 3, *hw, dtype=torch.float64, requires_grad=True)
    check_same(
        map_to_tokens(feature_map, tokens),
        reference.map_to_tokens(feature_map, tokens),
        feature_map,
    )


@pytest.mark.parametrize(('init_hw', 'hw'), SIZES)
def test_interpolate_tokens_equals_its_twin(init_hw, hw):
    cells = init_hw[0] * init_hw[1]
    target = random_tokens(init_hw, hw, max(cells // 2, 1))
    source = random_tokens(init_hw, hw, max(cells // 4, 1))
    check_same(
        interpolate_tokens(target, source), reference.interpolate_tokens(target, source), source.x
    )


def test_averages_of_bags_have_gradients_of_any_order():
    # the second bag is empty, and nothing takes row 1
    weights = torch.tensor([0.5, 2.0, -1.0, 3.0], dtype=torch.float64)
    bags = Bags(torch.tensor([2, 0, 2, 3]), torch.tensor([0, 1, 1]), weights=weights)
    table = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor([[0, 0, 0.5, 0], [0, 0, 0, 0], [2.0, 0, -1, 3]], dtype=torch.float64)
    check_same(bags.average(table), matrix @ table, table)
    assert torch.autograd.gradcheck(bags.average, table)
    assert torch.autograd.gradgradcheck(bags.average, table)
    grad = torch.func.grad(lambda x: bags.average(x).square().sum())(table.detach())
    torch.testing.assert_close(grad, 2 * matrix.T @ matrix @ table.detach())


def test_weights_of_bags_that_need_a_gradient_get_one():
    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    bags = Bags(torch.tensor([1, 0, 1]), torch.tensor([0, 2]), weights=weights)
    table = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    bags.average(table).sum().backward()
    torch.testing.assert_close(weights.grad, table.detach()[bags.rows].sum(-1))


def test_gradcheck():
    target, source = random_tokens((3, 2), (2, 1), 4), random_tokens((3, 2), (2, 1), 2)
    feature_map = torch.randn(2, 3, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tokens_to_map(target.with_x(x)), target.x)
    assert torch.autograd.gradcheck(lambda f: map_to_tokens(f, target), feature_map)
    assert torch.autograd.gradcheck(
        lambda x: interpolate_tokens(target, source.with_x(x)), source.x
    )


@pytest.mark.parametrize('init_hw', [(1, 1), (7, 5), (4, 9)])
def test_map_to_tokens_to_map_on_the_grid_is_exact(init_hw):
    feature_map = torch.randn(2, 3, *init_hw)
    tokens = TokenSet.from_map(feature_map)
    assert torch.equal(tokens_to_map(tokens), feature_map)
    assert torch.equal(map_to_tokens(feature_map, tokens), tokens.x)


def test_constant_tokens_make_a_constant_map():
    tokens = random_tokens((7, 5), (3, 2), 11)
    tokens = tokens.with_x(torch.ones_like(tokens.x))
    torch.testing.assert_close(
        tokens_to_map(tokens), torch.ones(2, 3, 3, 2).double(), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(('cells', 'side'), [((49, 64), (7, 9)), ((56, 41), (28, 21))])
def test_map_index_is_nearest_resize(cells, side):
    index = torch.arange(side[0] * side[1], dtype=torch.float32).view(1, 1, *side)
    want = F.interpolate(index, cells).flatten().long()
    assert torch.equal(map_index(cells, side, torch.device('cpu')), want)


def test_order_of_tokens_does_not_change_the_map():
    tokens = random_tokens((6, 7), (3, 4), 13)
    order = torch.randperm(13)
    shuffled = TokenSet(
        tokens.x[:, order], order.argsort()[tokens.assign_idx], tokens.token_weight, (6, 7), (3, 4)
    )
    torch.testing.assert_close(tokens_to_map(shuffled), tokens_to_map(tokens))


def test_sample_does_not_depend_on_its_batch():
    both = random_tokens((6, 7), (3, 4), 13)
    second = TokenSet(both.x[1:], both.assign_idx[1:], both.token_weight[1:], (6, 7), (3, 4))
    assert torch.equal(tokens_to_map(both)[1:], tokens_to_map(second))


def test_new_features_share_the_pooling_structure():
    tokens = random_tokens((6, 7), (3, 4), 13)
    tokens_to_map(tokens)
    other = tokens.with_x(torch.randn(2, 13, 8).double()).with_hw((6, 7))
    assert other._cache is tokens._cache
    assert tokens_to_map(other, (3, 4)).shape == (2, 8, 3, 4)


def test_token_set_is_immutable():
    tokens = random_tokens((2, 2), (1, 1), 2)
    with pytest.raises(AttributeError):
        tokens.hw = (2, 2)


@pytest.mark.parametrize('use', [nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2), torch.relu])
def test_use_as_a_map_names_the_remedy(use):
    with pytest.raises(ValueError, match="TokenSet.* build TCFormer with out_type='maps'"):
        use(random_tokens((2, 2), (1, 1), 2))


def test_survives_copying_and_pickling():
    tokens = TokenSet.from_map(torch.randn(1, 3, 4, 4))
    for other in (copy.deepcopy(tokens), pickle.loads(pickle.dumps(tokens))):
        assert torch.equal(other.x, tokens.x) and other.hw == tokens.hw


def test_maps_of_one_sample_are_channels_last():
    """Otherwise a depthwise convolution takes several times as long."""
    merged = random_tokens((6, 7), (3, 4), 13, batch=1)
    for tokens in (merged, TokenSet.from_map(tokens_to_map(merged))):
        assert tokens_to_map(tokens).is_contiguous(memory_format=torch.channels_last)


def test_group_rows_leaves_a_place_for_empty_groups():
    groups = group_rows(torch.tensor([[2, 0, 2, 0]]), 4)
    assert groups.order.tolist() == [[1, 3, 0, 2]]
    assert groups.counts.tolist() == [[2, 0, 2, 0]]
    assert groups.offsets.tolist() == [0, 2, 2, 4]


def test_map_of_wrong_rank_is_refused():
    with pytest.raises(
        ValueError, match=r'feature_map must have the shape \(B, C, H, W\), got \(2, 3'
    ):
        map_to_tokens(torch.zeros(2, 3, 4), random_tokens((2, 2), (1, 1), 2))
