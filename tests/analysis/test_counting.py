from functools import partial

import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.analysis.counting import (
    count_complexity,
    count_parameters,
    format_table,
    stage_rows,
)
from mmtoken.common.attention import multi_head_attention
from rooms import BACKBONES, smallest_id
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F


class Calls(nn.Module):
    """A module around a function, so that it has a place in the table."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args):
        return self.function(*args)


def macs(function, *args):
    counted = count_complexity(Calls(function), lambda: function(*args))
    return {kind: n for kinds in counted.macs.values() for kind, n in kinds.items()}


# -- hand-computed cases


def test_linear():
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.LayerNorm(5))
    counted = count_complexity(model, lambda: model(torch.zeros(2, 7, 3)))
    assert counted.macs == {'0': {'linear': 2 * 7 * 3 * 5}, '2': {}}
    assert counted.params == {'0': {'linear': 20}, '2': {'norm': 10}}


@pytest.mark.parametrize('bias', [True, False])
def test_functional_linear(bias):
    weight = torch.zeros(5, 3)
    offset = torch.zeros(5) if bias else None
    assert macs(F.linear, torch.zeros(2, 7, 3), weight, offset) == {'linear': 210}


def test_convolutions():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, groups=6))
    counted = count_complexity(model, lambda: model(torch.zeros(1, 4, 9, 13)))
    assert counted.macs == {'0': {'conv': 5 * 7 * 6 * 4 * 9}, '1': {'conv': 3 * 5 * 6 * 9}}


@pytest.mark.parametrize('fake', [False, True])
@pytest.mark.parametrize('bias', [None, torch.zeros(1, 1, 1, 11)])
def test_fused_attention(fake, bias):
    q, k, v = torch.zeros(2, 7, 12), torch.zeros(2, 11, 12), torch.zeros(2, 11, 12)

    def attend():
        with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.no_grad():
            return multi_head_attention(q, k, v, 3, bias)

    assert macs(attend) == {'attention': 2 * (2 * 7 * 11 * 12)}


def test_values_may_be_wider_than_keys():
    q, k, v = torch.zeros(1, 1, 7, 4), torch.zeros(1, 1, 11, 4), torch.zeros(1, 1, 11, 6)
    assert macs(F.scaled_dot_product_attention, q, k, v) == {'attention': 7 * 11 * (4 + 6)}


def test_attention_of_torch_in_eval_mode():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.zeros(1, 5, 8)
    counted = count_complexity(attention, lambda: attention(x, x, x, need_weights=False))
    assert counted.macs_of('attention') == 2 * 5 * 5 * 8
    assert counted.macs_of('linear') == 4 * 5 * 8 * 8
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize('count', [4, 40])  # torch has another kernel up to 25
def test_distances(count):
    a, b = torch.zeros(2, count, 3), torch.zeros(2, 7, 3)
    assert macs(torch.cdist, a, b) == {'clustering': 2 * count * 7 * 3}


def test_scattered_sums_count_but_integers_do_not():
    index = torch.tensor([0, 1, 1])
    assert macs(torch.zeros(2, 4).index_add, 0, index, torch.ones(3, 4)) == {'transforms': 12}
    assert macs(torch.zeros(2, dtype=torch.long).scatter_add, 0, index, index) == {'transforms': 0}


A, B = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
PRODUCTS = {  # name of the product: its operands, kind and multiply-adds
    'mm': (A[0], B[0], 'linear', 60),
    'mv': (A[0], B[0, :, 0], 'linear', 12),
    'bmm': (A, B, 'attention', 120),
    'addmm': (A[0], B[0], 'linear', 60),
    'addmv': (A[0], B[0, :, 0], 'linear', 12),
    'addbmm': (A, B, 'linear', 120),
    'baddbmm': (A, B, 'attention', 120),
}


@pytest.mark.parametrize('variant', ['plain', 'out', 'in place'])
@pytest.mark.parametrize('name', PRODUCTS)
def test_every_variant_of_a_product_counts(name, variant):
    *operands, kind, number = PRODUCTS[name]
    product = getattr(torch, name)
    if 'add' in name:
        result = operands[0] @ operands[1]
        operands.insert(0, result.sum(0) if name == 'addbmm' else result)
    if variant == 'in place':
        product = getattr(torch.Tensor, f'{name}_', product)  # mm, mv and bmm have none
    elif variant == 'out':
        product = partial(product, out=torch.empty(0))
    assert macs(product, *operands) == {kind: number}


def test_products_that_a_module_recomputes_count_once():
    class Distances(nn.Module):
        counts_as = {'': 'clustering'}
        recomputes = ('baddbmm_',)

        def forward(self, x):
            return torch.bmm(x, x.mT).baddbmm_(x, x.mT)

    model = nn.Sequential(Distances())
    counted = count_complexity(model, lambda: model(torch.zeros(2, 5, 4)))
    assert counted.macs == {'0': {'clustering': 2 * 5 * 5 * 4}}


def test_products_of_a_clustering_module_are_clustering():
    class Merge(nn.Module):
        counts_as = {'': 'clustering'}

        def __init__(self):
            super().__init__()
            self.norm = nn.Linear(4, 4)

        def forward(self, x):
            x = self.norm(x)
            return x @ x.transpose(1, 2)

    model = nn.Sequential(Merge())
    counted = count_complexity(model, lambda: model(torch.zeros(2, 5, 4)))
    assert counted.macs == {'0': {'linear': 2 * 5 * 4 * 4, 'clustering': 2 * 5 * 5 * 4}}


def test_forward_that_a_host_calls_directly_has_its_row():
    model = nn.ModuleDict(dict(head=nn.Linear(3, 5)))
    counted = count_complexity(model, lambda: model.head.forward(torch.zeros(1, 3)))
    assert counted.macs == {'head': {'linear': 15}} and counted.uncounted == ()


def test_everything_inside_a_declared_child_is_clustering():
    layers = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Linear(7, 5))
    attn = nn.ModuleDict(dict(scores=layers, q=nn.Linear(5, 5)))
    attn.counts_as = {'scores': 'clustering'}
    model = nn.ModuleDict(dict(attn=attn))
    x = torch.zeros(1, 2, 7)
    counted = count_complexity(model, lambda: model.attn.q(model.attn.scores(x)))
    assert counted.macs == {'attn': {'clustering': 7 * 2 * 3 + 3 * 7 * 5, 'linear': 3 * 5 * 5}}


def test_undeclared_batched_products_are_attention():
    assign, x = torch.zeros(2, 5, 7), torch.zeros(2, 7, 4)
    assert macs(torch.matmul, assign, x) == {'attention': 2 * 5 * 7 * 4}


def test_weights_that_torch_does_not_see_are_named():
    hidden = Calls(lambda x: x)
    hidden.weight = nn.Parameter(torch.zeros(2, 2))
    model = nn.Sequential(nn.Linear(2, 2), hidden, nn.LayerNorm(2))
    assert count_complexity(model, lambda: model(torch.zeros(1, 2))).uncounted == ('1',)


def test_shared_parameters_count_once():
    shared = nn.Linear(3, 3)
    assert count_parameters(nn.ModuleDict(dict(a=shared, b=shared))) == {'a': {'linear': 12}}


def test_model_is_left_as_it_was():
    model = nn.Linear(3, 5)
    count_complexity(model, lambda: model(torch.zeros(1, 3)))
    assert 'forward' not in vars(model)
    with pytest.raises(RuntimeError):
        count_complexity(model, lambda: model(torch.zeros(1, 4)))
    assert 'forward' not in vars(model)
    model.forward = own = model.forward
    count_complexity(model, lambda: model(torch.zeros(1, 3)))
    assert model.forward is own


def test_agrees_with_published_counts_of_another_library():
    torchvision = pytest.importorskip('torchvision')
    for name, published in (('resnet18', 1.814), ('shufflenet_v2_x1_0', 0.145)):
        model = getattr(torchvision.models, name)().eval()
        with FakeTensorMode(allow_non_fake_inputs=True):
            counted = count_complexity(model, lambda m=model: m(torch.zeros(1, 3, 224, 224)))
        assert round(counted.total_macs / 1e9, 3) == published, name


# -- rows and table


@pytest.mark.parametrize('backbone', BACKBONES, ids=smallest_id)
def test_rows_of_our_backbones_are_its_stages(backbone):
    model = MODELS.build(backbone)
    rows = ['stem', *(f'stage {number + 1}' for number in range(len(model.depths)))]
    assert set(stage_rows(model).values()) == set(rows)
    whole = nn.ModuleDict(dict(head=nn.Linear(2, 2), backbone=model))
    whole.backbone = model
    assert list(dict.fromkeys(stage_rows(whole).values())) == [*rows, 'head']


def test_table():
    model = nn.Sequential(nn.Linear(3, 5), nn.Conv1d(7, 1, 1))
    text = format_table(count_complexity(model, lambda: model(torch.zeros(7, 3))))
    head, _, first, second, _, total = text.splitlines()
    assert head.split() == ['params', 'M', 'linear', 'G', 'conv', 'G', 'total', 'G', 'share']
    assert len({len(line) for line in text.splitlines()}) == 1
    assert first.startswith('0 ') and first.endswith('75.0 %')
    assert second.startswith('1 ') and second.endswith('25.0 %')
    assert total.endswith('100.0 %')
