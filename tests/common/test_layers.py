import math

import pytest
import torch
from mmtoken.common.layers import (
    ConvMlp,
    DropPath,
    drop_path_rates,
    init_vit_weights,
    to_map,
    to_tokens,
)
from parity import check_equal, rand
from torch import nn


@pytest.mark.parametrize('batch', [1, 2])
def test_maps_of_tokens_are_channels_last_views(batch):
    x = torch.randn(batch, 15, 4)
    feature_map = to_map(x, (3, 5))
    assert feature_map.shape == (batch, 4, 3, 5) and feature_map.data_ptr() == x.data_ptr()
    assert feature_map.stride() == (60, 1, 20, 4)  # what a convolution recognises
    assert torch.equal(feature_map[0, :, 2, 3], x[0, 13])
    tokens = to_tokens(feature_map)
    assert torch.equal(tokens, x) and tokens.stride() == x.stride()
    assert ConvMlp(4, 8)(x, (3, 5)).stride() == x.stride()


def test_drop_path_is_the_identity_in_eval_and_at_zero():
    x = torch.randn(4, 3, 2)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    out = DropPath(0.25)(torch.ones(4000, 2, 3))
    kept = out.flatten(1)
    assert ((kept == 0).all(1) | (kept == 1 / 0.75).all(1)).all()
    assert abs(out.mean().item() - 1) < 0.05


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_drop_path_out_of_range(rate):
    with pytest.raises(ValueError, match=rf'drop_path must be a number in \[0, 1\), got {rate}'):
        DropPath(rate)


def test_drop_path_rates_rise_over_all_stages():
    assert drop_path_rates(0.3, (1, 2, 1)) == [[0.0], pytest.approx([0.1, 0.2]), [0.3]]


def test_conv_mlp_names_and_shape():
    mlp = ConvMlp(4, 8)
    assert set(mlp.state_dict()) == {
        f'{layer}.{kind}'
        for layer in ('fc1', 'fc2', 'dwconv.dwconv')
        for kind in ('weight', 'bias')
    }
    assert mlp(torch.randn(2, 15, 4), (3, 5)).shape == (2, 15, 4)


@pytest.mark.parametrize('drop', [0.0, 0.3])
def test_conv_mlp_recomputes_what_is_large(drop, randomize, monkeypatch):
    mlp, norm, x = randomize(ConvMlp(4, 8, drop)).double(), nn.LayerNorm(4).double(), rand(2, 15, 4)
    results = []
    for large in (10**6, 0):
        monkeypatch.setattr('mmtoken.common.memory.LARGE', large)
        torch.manual_seed(0)
        results.append(mlp(x, (3, 5), norm))
    check_equal(*results, {'x': x, **dict(mlp.named_parameters()), **dict(norm.named_parameters())})


def test_conv_mlp_sees_neighbours_and_no_further():
    mlp = ConvMlp(4, 8).double()
    x = torch.randn(1, 5 * 7, 4, dtype=torch.float64, requires_grad=True)
    mlp(x, (5, 7)).view(5, 7, 4)[2, 3].sum().backward()
    touched = x.grad.view(5, 7, 4).abs().sum(-1) > 0
    want = torch.zeros(5, 7, dtype=torch.bool)
    want[1:4, 2:5] = True
    assert torch.equal(touched, want)


def test_initial_values():
    conv = nn.Conv2d(64, 64, 3, groups=64)
    skip = nn.Conv1d(4, 4, 1)
    before = skip.weight.clone()
    linear = nn.Linear(200, 200)
    for module in (conv, skip, linear):
        module.apply(init_vit_weights)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not conv.bias.any()
    assert not linear.bias.any()
    assert torch.equal(skip.weight, before)
