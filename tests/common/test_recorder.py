import pytest
import torch
from mmtoken import TCFormer, record_tokens
from tcformer.smallest import TINY
from torch import nn


@pytest.fixture
def model(randomize):
    return randomize(TCFormer(TINY)).eval()


def test_records_stages_and_attention(model):
    image = torch.randn(2, 3, 64, 48)
    with record_tokens(model) as rec, torch.no_grad():
        model(image)
    assert sorted(rec.stages) == [1, 2, 3, 4]
    assert rec.stages[3]['tokens'].assign_idx.shape == (2, 16 * 12)
    assert rec.stages[2]['assign_idx'].shape == (2, 192)
    assert rec.stages[2]['token_score'].shape == (2, 192, 1)
    assert set(rec.attention) == {f'block{s}.0.attn' for s in (1, 2, 3, 4)}
    weights = rec.attention['block4.0.attn']
    assert weights.shape == (2, 4, 3, 12)  # the first block attends to the tokens before merging
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3))


def test_recording_changes_nothing(model):
    model, image = model.double(), torch.randn(1, 3, 64, 48).double()
    want = model(image)
    with record_tokens(model):
        got = model(image)
    for a, b in zip(got, want):
        torch.testing.assert_close(a.x, b.x)
        assert torch.equal(a.assign_idx, b.assign_idx)


def test_names_are_relative_to_the_recorded_model(model):
    outer = nn.Sequential(model)
    with record_tokens(outer) as rec:
        outer(torch.randn(1, 3, 32, 32))
    assert 'backbone' not in rec.attention
    assert '0.block1.0.attn' in rec.attention


def test_every_forward_has_its_own_record(model):
    with record_tokens(model, attention=False) as rec:
        model(torch.randn(1, 3, 32, 32))
        model(torch.randn(1, 3, 32, 64))
    assert [r.stages[1]['tokens'].init_hw for r in rec.forwards] == [(8, 8), (8, 16)]
    assert rec.stages is rec.forwards[0].stages
    assert not rec.attention


def test_recorded_values_are_detached_and_nothing_stays_behind(model):
    with record_tokens(model) as rec:
        model(torch.randn(1, 3, 32, 32))
    assert not rec.stages[4]['tokens'].x.requires_grad
    assert not rec.attention['block1.0.attn'].requires_grad
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())


def test_hooks_go_when_the_forward_fails(model):
    with pytest.raises(ValueError, match='in_channels'), record_tokens(model):
        model(torch.randn(1, 4, 32, 32))
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_empty_record_says_so(model):
    with record_tokens(model) as rec:
        pass
    with pytest.raises(ValueError, match='no token-clustering backbone ran'):
        _ = rec.stages


def test_recording_does_not_change_what_a_model_returns():
    model = nn.Sequential(nn.Identity())
    x = torch.ones(2)
    with record_tokens(model):
        assert model(x) is x
