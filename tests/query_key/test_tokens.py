import pytest
import torch
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.tokens import all_tokens, arrange, observe
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Global, or in windows of two tokens that are cut before or after the projection."""

    def __init__(self, cut='never'):
        super().__init__()
        self.qkv, self.num_heads, self.cut = nn.Linear(8, 24), 2, cut

    def forward(self, x):
        x = x.unflatten(1, (-1, 2)).flatten(0, 1) if self.cut == 'before' else x
        qkv = self.qkv(x)
        qkv = qkv.unflatten(1, (-1, 2)).flatten(0, 1) if self.cut == 'after' else qkv
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, cut='never'):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(8), Attention(cut)

    def forward(self, x):
        return self.attn(self.norm1(x))


@pytest.mark.parametrize('cut', ['never', 'before', 'after'])
def test_arrangement_of_windows(cut):
    model, x = Block(cut).double(), torch.randn(1, 6, 8).double()
    layers, _ = find_layers(model)
    seen = observe(model, layers, lambda: model(x))['attn']
    rows, columns = arrange(layers[0], seen, seen.products[0])
    want = torch.arange(6).view((1, 6) if cut == 'never' else (3, 2))
    assert torch.equal(rows, want) and torch.equal(columns, want)
    # whatever is cut: the tokens in raster order, and the norm that they come from
    source = seen.queries[0]
    assert source.norm == 'norm1' and torch.equal(source.normed, model.norm1(x))
    assert torch.equal(all_tokens(seen.queries), model.norm1(x)[0])


def test_tokens_without_a_norm():
    model = nn.Sequential(nn.Linear(8, 8), Attention())
    layers, _ = find_layers(model)
    seen = observe(model, layers, lambda: model(torch.randn(2, 3, 8)), products=False)['1']
    assert not seen.products and seen.queries[0].norm == ''
    assert seen.queries[0].normed.shape == (2, 3, 8)


def test_the_model_stays_as_it_was():
    model = Block().train()
    layers, _ = find_layers(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match='stop'):
        observe(model, layers, lambda: (_ for _ in ()).throw(RuntimeError('stop')))
    observe(model, layers, lambda: model(torch.randn(1, 2, 8)))
    assert model.training and torch.backends.mha.get_fastpath_enabled() == fast
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_does_not_run_is_left_out():
    model = nn.ModuleList([Block(), Block()])
    layers, _ = find_layers(model)
    assert list(observe(model, layers, lambda: model[1](torch.randn(1, 2, 8)))) == ['1.attn']
