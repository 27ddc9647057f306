"""Each layer equals its twin: outputs and gradients, at odd sizes, all parameters random."""

import pytest
import torch
from maxvit.smallest import SIZES
from mmtoken.maxvit import reference
from mmtoken.maxvit.block import GroupedAttention
from mmtoken.maxvit.forms import FORMS
from mmtoken.maxvit.mbconv import MBConv, Stem
from mmtoken.maxvit.partition import KINDS, plan_groups
from mmtoken.maxvit.relative_position import MlpBias, TableBias, resize_table
from parity import check_equal, rand
from torch import nn


def tensors_of(module, x):
    return dict(module.named_parameters(), x=x)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('hw', SIZES[:5])
@pytest.mark.parametrize('heads_first', [False, True])
def test_attention(kind, hw, heads_first, randomize):
    bias = MlpBias(2) if heads_first else TableBias(2, (3, 4))
    attn = randomize(GroupedAttention(8, 2, bias, heads_first)).double().eval()
    x = rand(2, *hw, 8)
    got = attn(x, plan_groups(kind, hw, (3, 4), x.device))
    check_equal(got, reference.grouped_attention(attn, x, kind, (3, 4)), tensors_of(attn, x))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('hw', [(1, 1), (2, 5), (7, 4), (6, 8), (3, 9)])
def test_mbconv(form, stride, hw, randomize):
    block = randomize(MBConv(5, 8 if stride == 2 else 5, stride, FORMS[form])).double().eval()
    x = rand(2, 5, *hw)
    check_equal(block(x), reference.mbconv(block, x), tensors_of(block, x))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('hw', [(1, 2), (6, 7), (8, 8)])
def test_stem(form, hw, randomize):
    stem = randomize(Stem(3, (4, 6), FORMS[form])).double().eval()
    x = rand(2, 3, *hw)
    check_equal(stem(x), reference.stem(stem, x), tensors_of(stem, x))


@pytest.mark.parametrize('size', [(3, 4), (7, 7), (1, 1), (2, 9), (20, 5)])
def test_resized_tables(size):
    table = rand(2, 5, 7)
    check_equal(resize_table(table, size), reference.resize_table(table, size), dict(table=table))


def test_released_padding_counts_in_the_mean():
    """As in timm, at odd sizes; spec: an all-ones 3x3 map pools to 1, .5, .5, .25."""
    shortcut = MBConv(4, 4, 2, FORMS['tf']).shortcut
    assert isinstance(shortcut.expand, nn.Identity)
    pooled = shortcut(torch.ones(1, 4, 3, 3))
    assert pooled[0, 0].tolist() == [[1, 0.5], [0.5, 0.25]]


def test_dropout_of_the_mlp_is_for_training_only():
    bias = MlpBias(2, drop=0.5).train()
    groups = plan_groups('grid', (4, 4), (2, 2), torch.device('cpu'))
    assert not torch.equal(bias(groups, torch.float32), bias(groups, torch.float32))
    assert torch.equal(bias.eval()(groups, torch.float32), bias(groups, torch.float32))
