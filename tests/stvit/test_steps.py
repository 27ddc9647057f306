"""What the steps share: stochastic depth by window, the global centre on any map."""

import pytest
import torch
from mmtoken.stvit.steps import (
    CrossAttention,
    SemanticBlock,
    WindowDropPath,
    max_of_parts,
    resize_center,
)
from torch.nn import functional as F


def test_drop_path_drops_windows():
    drop = WindowDropPath(0.6).train()
    kept = drop(torch.ones(4, 20, 16, 1), 7)[..., 0]
    assert kept.unique().tolist() == [0.0, pytest.approx(2.5)]
    for window in (kept[:, :7, :7], kept[:, 7:14, 14:], kept[:, 14:, 7:14]):
        assert (window == window[:, :1, :1]).all()
    assert kept.flatten(1).unique(dim=1).shape[1] > 1  # not the whole image at once
    whole = drop(torch.ones(64, 5, 3))
    assert (whole == whole[:, :1, :1]).all() and len(whole.unique()) == 2
    assert torch.equal(drop.eval()(kept[..., None], 7), kept[..., None])


def test_a_centre_is_kept_where_it_fits_and_resized_elsewhere():
    center = torch.randn(1, 36, 4)
    assert resize_center(center, (6, 6)) is center
    assert resize_center(center, (6, 15)).shape == (1, 6 * 15, 4)
    flat = torch.ones(1, 36, 4)
    torch.testing.assert_close(resize_center(flat, (9, 6)), torch.ones(1, 9 * 6, 4))


def test_padding_is_normed_like_a_token_of_zeros(randomize):
    block = randomize(SemanticBlock(8, 2))
    zero = block.norm1(torch.zeros(8))
    torch.testing.assert_close(zero, block.norm1.bias, atol=0, rtol=0)
    seen = []

    def how(q, kv, outside, num_heads):
        seen.append(outside)
        return q

    block.attend(torch.randn(1, 3, 8), torch.randn(1, 5, 8), how, padded=True)
    torch.testing.assert_close(seen[0], block.attn.kv(zero))
    block.attend(torch.randn(1, 3, 8), torch.randn(1, 5, 8), how)
    assert seen[1] is None


@pytest.mark.parametrize('side', range(1, 13))
def test_parts_are_those_of_adaptive_pooling(side):
    x = torch.randn(2, 3, side, side, dtype=torch.float64).round().requires_grad_()
    for parts in range(1, side + 4):
        pair = max_of_parts(x, parts), F.adaptive_max_pool2d(x, parts)
        assert torch.equal(*pair)
        assert torch.equal(*(torch.autograd.grad(one.square().sum(), x)[0] for one in pair))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match='num_heads must divide dim, got num_heads=3 and dim=8'):
        CrossAttention(8, 3)
