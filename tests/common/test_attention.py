import pytest
import torch
from mmtoken.common import reference
from mmtoken.common.attention import (
    attend,
    attention_weights,
    merge_heads,
    multi_head_attention,
    split_heads,
)


def projected(queries, keys, dim=6):
    made = [torch.randn(2, n, dim, dtype=torch.float64) for n in (queries, keys, keys)]
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize(('queries', 'keys', 'heads'), [(1, 1, 1), (7, 3, 2), (5, 35, 3)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_equals_its_twin(queries, keys, heads, with_bias):
    q, k, v = inputs = projected(queries, keys)
    bias = None
    if with_bias:
        bias = torch.randn(2, 1, 1, keys, dtype=torch.float64, requires_grad=True)
        inputs = [*inputs, bias]
    fast = multi_head_attention(q, k, v, heads, bias)
    slow = reference.multi_head_attention(q, k, v, heads, bias)
    torch.testing.assert_close(fast, slow)
    probe = torch.randn_like(fast)
    for name, got, want in zip(
        ('dq', 'dk', 'dv', 'dbias'),
        torch.autograd.grad((fast * probe).sum(), inputs),
        torch.autograd.grad((slow * probe).sum(), inputs),
    ):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'{n}: {m}')


def test_gradcheck():
    q, k, v = projected(3, 2, dim=2)
    assert torch.autograd.gradcheck(lambda *x: multi_head_attention(*x, num_heads=1), (q, k, v))


def test_order_of_keys_is_irrelevant():
    q, k, v = projected(4, 9)
    order = torch.randperm(9)
    torch.testing.assert_close(
        multi_head_attention(q, k[:, order], v[:, order], 2), multi_head_attention(q, k, v, 2)
    )


def test_weights_sum_to_one():
    q, k, _ = (split_heads(x, 2) for x in projected(4, 9))
    weights = attention_weights(q, k, torch.randn(2, 1, 1, 9).double())
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4).double())


def test_values_may_be_narrower_than_keys():
    q, k, v = (torch.randn(2, 3, n, width).double() for n, width in ((5, 8), (7, 8), (7, 2)))
    logits = 0.3 * q @ k.transpose(-2, -1)
    torch.testing.assert_close(attend(q, k, v, scale=0.3), logits.softmax(-1) @ v)


def test_heads_split_and_merge_exactly():
    x = torch.randn(2, 5, 12)
    assert split_heads(x, 3).shape == (2, 3, 5, 4)
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


def test_dropout_drops():
    q, k, v = projected(4, 50)
    assert not torch.equal(
        multi_head_attention(q, k, v, 2, dropout=0.5), multi_head_attention(q, k, v, 2)
    )


@pytest.mark.parametrize('width', [3, 2])
def test_export_to_onnx_equals_the_fused_kernel(monkeypatch, width):
    q, k, v = torch.randn(3, 2, 3, 7, 3, dtype=torch.float64)
    bias = torch.randn(7, 7, dtype=torch.float64).masked_fill(torch.eye(7) > 0, -torch.inf)
    arguments = (q, k, v[..., :width], bias, 0.0, 0.7)
    want = attend(*arguments)
    monkeypatch.setattr('mmtoken.common.attention.is_onnx_export', lambda: True)
    torch.testing.assert_close(attend(*arguments), want)
