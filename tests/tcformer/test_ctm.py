import pytest
import torch
from mmtoken.tcformer import reference
from mmtoken.tcformer.ctm import ClusteringTokenMerge, TokenConv, halve, merge_tokens
from mmtoken.tcformer.tokens import TokenSet


def grid_tokens(height, width, dim=4, batch=2):
    feature_map = torch.randn(batch, dim, height, width, dtype=torch.float64, requires_grad=True)
    return TokenSet.from_map(feature_map), feature_map


@pytest.mark.parametrize(('hw', 'clusters'), [((1, 1), 1), ((5, 7), 9), ((3, 4), 12)])
def test_merge_equals_its_twin(hw, clusters):
    tokens, leaf = grid_tokens(*hw)
    count = hw[0] * hw[1]
    assign = torch.stack([torch.randperm(count) % clusters for _ in range(2)])
    weight = (torch.rand(2, count, 1, dtype=torch.float64) + 0.1).requires_grad_()
    fast = merge_tokens(tokens, assign, clusters, weight)
    slow = reference.merge_tokens(tokens, assign, clusters, weight)
    torch.testing.assert_close(fast.x, slow.x)
    torch.testing.assert_close(fast.token_weight, slow.token_weight)
    assert torch.equal(fast.assign_idx, slow.assign_idx)
    probe = torch.randn_like(fast.x)
    for name, got, want in zip(
        ('tokens', 'weight'),
        torch.autograd.grad((fast.x * probe).sum(), (leaf, weight)),
        torch.autograd.grad((slow.x * probe).sum(), (leaf, weight)),
    ):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'gradient of {n}: {m}')


def test_gradcheck():
    tokens, _ = grid_tokens(2, 2, dim=2, batch=1)
    assign = torch.tensor([[0, 1, 1, 0]])
    x = tokens.x.detach().requires_grad_()
    weight = torch.rand(1, 4, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: merge_tokens(tokens.with_x(x), assign, 2, w).x, (x, weight)
    )


def test_merging_constant_tokens_is_constant_and_shares_sum_to_one():
    tokens, _ = grid_tokens(5, 7)
    tokens = tokens.with_x(torch.ones_like(tokens.x))
    assign = torch.arange(35).expand(2, -1) % 6
    merged = merge_tokens(tokens, assign, 6, torch.rand(2, 35, 1, dtype=torch.float64) + 0.5)
    torch.testing.assert_close(merged.x, torch.ones_like(merged.x), atol=2e-6, rtol=0)
    totals = torch.zeros(2, 6).double().scatter_add_(1, assign, merged.token_weight[..., 0])
    torch.testing.assert_close(totals, torch.ones(2, 6).double(), atol=2e-6, rtol=0)


def test_weight_of_a_token_carries_no_gradient_and_is_not_normalised():
    tokens, _ = grid_tokens(3, 4)
    weight = torch.rand(2, 12, 1, dtype=torch.float64, requires_grad=True)
    merged = merge_tokens(tokens, torch.arange(12).expand(2, -1) % 3, 3, weight)
    assert not merged.token_weight.requires_grad
    assert merged.token_weight.max() < 1  # dividing by the maximum would make it 1


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_token_conv_equals_its_twin(groups):
    tokens, _ = grid_tokens(5, 7)
    tokens = merge_tokens(tokens, torch.arange(35).expand(2, -1) % 11, 11)
    conv = TokenConv(4, 4, 3, padding=1, groups=groups).double()
    torch.testing.assert_close(conv(tokens), reference.token_conv(conv, tokens))


def test_token_conv_on_the_grid_is_a_convolution_plus_skip():
    tokens, leaf = grid_tokens(5, 7)
    conv = TokenConv(4, 6, 3, padding=1).double()
    want = torch.nn.functional.conv2d(leaf, conv.weight, conv.bias, padding=1)
    want = want.flatten(2).transpose(1, 2) + tokens.x @ conv.skip.weight[..., 0].T
    torch.testing.assert_close(conv(tokens), want)
    torch.testing.assert_close(conv(tokens), reference.token_conv(conv, tokens))


def test_merge_block_shapes_and_scores():
    tokens, _ = grid_tokens(9, 7)
    merge = ClusteringTokenMerge(4, 6).double()
    merged, before, score = merge(tokens, 2)
    assert merged.x.shape == (2, 16, 6)  # ceil(63 / 4)
    assert (merged.hw, before.hw) == ((5, 4), (9, 7))
    assert before.x.shape == (2, 63, 6)
    assert score.shape == (2, 63, 1)
    assert not merged.on_grid


def test_noise_only_in_training():
    tokens, _ = grid_tokens(9, 7)
    merge = ClusteringTokenMerge(4, 6, density_noise=0.5).double().eval()
    assert torch.equal(merge(tokens, 2)[0].x, merge(tokens, 2)[0].x)
    merge.train()
    assert not torch.equal(merge(tokens, 2)[0].x, merge(tokens, 2)[0].x)


def test_huge_scores_survive_half_precision_autocast():
    tokens, _ = grid_tokens(8, 8)
    tokens = TokenSet.from_map(torch.randn(1, 4, 8, 8))
    merge = ClusteringTokenMerge(4, 6)
    torch.nn.init.constant_(merge.score.bias, 20.0)  # exp(20) overflows float16
    with torch.autocast('cpu', torch.float16):
        merged = merge(tokens, 2)[0]
    assert merged.x.isfinite().all()


@pytest.mark.parametrize(('hw', 'half'), [((1, 1), (1, 1)), ((7, 8), (4, 4)), ((48, 63), (24, 32))])
def test_halve_is_the_ceiling(hw, half):
    assert halve(hw) == half
