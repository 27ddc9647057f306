import pytest
import torch
from mmtoken.tcformer import reference
from mmtoken.tcformer.ctm import ClusteringTokenMerge
from mmtoken.tcformer.layers import TokenAttention, TokenBlock
from mmtoken.tcformer.tokens import TokenSet


def merged_tokens(height=9, width=7, dim=8):
    """Merged tokens, the tokens before merging and their score, all with a gradient."""
    feature_map = torch.randn(2, dim, height, width, dtype=torch.float64)
    merge = ClusteringTokenMerge(dim, dim).double()
    tokens, key, score = merge(TokenSet.from_map(feature_map), 2)
    leaf = tokens.x.detach().requires_grad_()
    key_leaf = key.x.detach().requires_grad_()
    score_leaf = score.detach().requires_grad_()
    return tokens.with_x(leaf), key.with_x(key_leaf), score_leaf


@pytest.mark.parametrize(
    ('reduction', 'sr_ratio', 'gather'),
    [
        ('conv', 2, False),
        ('conv', 1, False),
        ('avg_pool', 2, False),
        ('cluster', 1, False),
        ('cluster', 1, True),
    ],
)
@pytest.mark.parametrize('with_key', [False, True])
def test_block_equals_its_twin(reduction, sr_ratio, gather, with_key, randomize):
    tokens, key, score = merged_tokens()
    block = (
        TokenBlock(8, 2, 2, sr_ratio, reduction, norm_eps=1e-5, gather_layer=gather).double().eval()
    )
    randomize(block)
    args = (tokens, key, score) if with_key else (tokens, None, None)
    leaves = [tokens.x, key.x, score] if with_key else [tokens.x]
    leaves += list(block.parameters())
    names = ['tokens', 'key', 'score'][: 3 if with_key else 1]
    names += [name for name, _ in block.named_parameters()]
    fast = block(*args, context=tokens).x
    slow = reference.token_block(block, *args, context=tokens).x
    torch.testing.assert_close(fast, slow)
    probe = torch.randn_like(fast)
    for name, got, want in zip(
        names,
        torch.autograd.grad((fast * probe).sum(), leaves),
        torch.autograd.grad((slow * probe).sum(), leaves),
    ):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'gradient of {n}: {m}')


def test_score_is_attended_to():
    tokens, key, score = merged_tokens()
    attention = TokenAttention(8, 2).double()
    assert not torch.allclose(attention(tokens, key, score), attention(tokens, key))


def test_unused_parameters_do_not_exist():
    names = set(dict(TokenAttention(8, 2, sr_ratio=4, reduction='avg_pool').named_parameters()))
    assert names == {f'{n}.{k}' for n in ('q', 'kv', 'proj') for k in ('weight', 'bias')}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_heads=3), 'num_heads=3 and dim=8'),
        (
            dict(num_heads=2, reduction='pool'),
            r"one of \['conv', 'avg_pool', 'cluster'\], got 'pool'",
        ),
        (dict(num_heads=2, attn_drop=1.0), r'attn_drop must be a number in \[0, 1\), got 1.0'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenAttention(8, **arguments)


def test_cluster_reduction_needs_its_context():
    tokens, _, _ = merged_tokens()
    with pytest.raises(ValueError, match='context=None; pass the tokens of the last stage'):
        TokenAttention(8, 2, reduction='cluster').double()(tokens, tokens)
