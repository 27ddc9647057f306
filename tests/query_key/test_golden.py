"""Equality with values from the full SVD in numpy, at float64; ``golden/qk.json`` has the rules."""

import json

import numpy as np
import pytest
import torch
from golden.cases import HERE, fill
from mmtoken.common.windows import window_order
from mmtoken.query_key import interaction
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.interaction import logit_terms
from mmtoken.query_key.tokens import all_tokens, arrange, observe
from mmtoken.vit.attention import Attention, Grid
from torch import nn

CASES = {case['name']: case for case in json.loads((HERE / 'qk.json').read_text())['cases']}
CLOSE = dict(rtol=1e-9, atol=1e-12)


def normal(seed, *shape):
    return torch.from_numpy(fill.make_input(seed, shape))


def weights(case):
    """``wq, wk`` of ``(h, d, D)`` and ``bq, bk`` of ``(h, d)``."""
    h, d, dim, seed = (case[k] for k in ('num_heads', 'head_dim', 'dim', 'seed'))
    if case['rule'] == 'separate':
        parts = normal(seed, h * d, dim), normal(seed + 1, 2 * h * d, dim)[: h * d]
        biases = normal(seed + 2, h * d), normal(seed + 3, 2 * h * d)[: h * d]
        wq, wk = (w.view(h, d, dim) / dim**0.5 for w in parts)
        return wq, wk, *(0.1 * b.view(h, d) for b in biases)
    w = normal(seed, 3 * h * d, dim) / dim**0.5
    b = 0.1 * normal(seed + 1, 3 * h * d)
    if case.get('order') == 'head_first':
        wq, wk = w.view(h, 3, d, dim)[:, :2].unbind(1)
        bq, bk = b.view(h, 3, d)[:, :2].unbind(1)
    else:
        (wq, wk), (bq, bk) = w.view(3, h, d, dim)[:2], b.view(3, h, d)[:2]
    if 'decay' in case:
        factor = case['decay'] ** torch.arange(d, dtype=w.dtype)[:, None]
        wq, wk = wq * factor, wk * factor
    if 'mix' in case:
        mix = torch.tensor(case['mix'], dtype=w.dtype)[:, None, None]
        wk = mix * wq + (1 - mix**2).sqrt() * wk
    return wq, wk, bq, bk


def values(wq, wk):
    """The same quantities as a golden head, for all heads."""
    modes = interaction.find_modes(wq, wk)
    symmetric, antisymmetric = interaction.symmetry_norms(wq, wk)
    return dict(
        singular_values=modes.strengths,
        cos=modes.similarity,
        cos_avg=interaction.mean_similarity(wq, wk),
        trace=interaction.trace(wq, wk),
        nuclear_norm=interaction.singular_values(wq, wk).sum(-1),
        effective_rank=interaction.effective_rank(modes.strengths),
        frobenius=modes.strengths.square().sum(-1).sqrt(),
        asymmetry=interaction.asymmetry(wq, wk),
        symmetric_norm=symmetric,
        antisymmetric_norm=antisymmetric,
    )


def compare(got, heads):
    for i, head in enumerate(heads):
        for name, value in got.items():
            if name not in head:
                continue
            want = np.asarray(head[name])
            have = value[i][: want.size].numpy() if want.ndim else value[i].numpy()
            close = CLOSE if name != 'cos' else dict(rtol=1e-7, atol=1e-9)
            if name != 'cos' or head['smallest_gap_ratio'] > 1e-6:
                np.testing.assert_allclose(have, want, **close, err_msg=f'head {i}: {name}')


@pytest.mark.parametrize('name', CASES)
def test_heads(name):
    case = CASES[name]
    wq, wk, *_ = weights(case)
    got = values(wq, wk)
    compare(got, case['heads'])
    assert got['cos_avg'].mean().item() == pytest.approx(case['layer_cos_avg_mean_over_heads'])
    for level in (95, 99):
        want = case[f'random_band_{level}']
        assert interaction.random_band(case['dim'], level / 100) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize('name', CASES)
def test_norm_folded(name):
    case = CASES[name]
    wq, wk, bq, bk = weights(case)
    g = 1 + 0.5 * normal(case['seed'] + 50, case['dim'])
    b = 0.2 * normal(case['seed'] + 51, case['dim'])
    wq, bq = interaction.fold_norm(wq, bq, g, b)
    wk, bk = interaction.fold_norm(wk, bk, g, b)
    compare({**values(wq, wk), 'bias_q': bq, 'bias_k': bk}, case['ln_folded'])


@pytest.mark.parametrize('name', CASES)
def test_bias_terms(name):
    case = CASES[name]
    x = normal(case['seed'] + 60, 7, case['dim'])
    terms = interaction.logit_terms(x, x, *weights(case))
    scale = case['head_dim'] ** -0.5
    logits = sum(terms.values()) * scale
    got = dict(
        logits_row0=logits[:, 0],
        bilinear_row0=terms['modes'][:, 0] * scale,
        key_bias=terms['key_bias'][:, 0] * scale,
        softmax_row0=logits[:, 0].softmax(-1),
        key_bias_share=interaction.key_bias_share(terms),
    )
    compare(got, case['bias_terms'])


@pytest.mark.parametrize('name', [name for name in CASES if 'rope' in CASES[name]])
def test_rotary_offsets(name):
    case = CASES[name]
    wq, wk, *_ = weights(case)
    form = case['rope']['kind']
    assert case['rope']['base'] == interaction.ROPE_BASES[form]
    for entry in case['rope_cos_avg']:
        angles = interaction.rope_angles(form, entry['delta'], case['head_dim'])
        compare(values(wq, interaction.turn(wk, form, angles)), entry['heads'])


def test_every_case_has_a_rule():
    assert {case['rule'] for case in CASES.values()} == {'fused', 'separate'}
    assert {'rope', 'window'} <= {key for case in CASES.values() for key in case}


def test_windows_with_padding_and_relative_positions():
    """Real logits of an attention with padded windows are the modes, the biases and one more term.

    Padded keys take part in ViTDet.
    """
    case = CASES['fused_windowed']
    h, d, dim, seed, window = (case[k] for k in ('num_heads', 'head_dim', 'dim', 'seed', 'window'))
    size, hw = window['size'], (window['height'], window['width'])
    attention = Attention(dim, h, nn.Identity(), window_size=size, rel_pos_side=size).double()
    values = dict(
        weight=normal(seed, 3 * h * d, dim) / dim**0.5, bias=0.1 * normal(seed + 1, 3 * h * d)
    )
    attention.qkv.load_state_dict(values)
    for name, number in (('rel_pos_h', 71), ('rel_pos_w', 72)):
        getattr(attention, name).data = normal(seed + number, 2 * size - 1, d) / d**0.5
    model = nn.ModuleDict(dict(attn=attention))
    x = normal(seed + 70, *hw, dim).flatten(0, 1)[None]
    grid = Grid(hw, order=window_order(hw, size, 0, x.device))
    (layer,), _ = find_layers(model)
    seen = observe(model, [layer], lambda: attention(x, grid))['attn']
    product, own = seen.products[0], layer.projections
    rows, columns = arrange(layer, seen, product)
    padded = columns >= hw[0] * hw[1]  # zeros, which are projected by a call of their own
    tokens = all_tokens(seen.queries), all_tokens(seen.keys)
    terms = sum(logit_terms(*tokens, own.wq, own.wk, own.bq, own.bk).values()) * own.scale
    for entry in case['windowed']:
        (y, x0), (top, left) = entry['query'], entry['window_origin']
        group = top // size * -(-hw[1] // size) + left // size
        place = (y - top) * size + x0 - left
        for head, want in enumerate(entry['heads']):
            logits = product.logits[group, head, place]
            weights = logits.softmax(-1)
            summed = terms[head, rows[group, place], columns[group]]
            got = dict(logits=logits, bias=logits - summed, attention=weights)
            for name, value in got.items():
                np.testing.assert_allclose(value, want[name], rtol=1e-8, atol=1e-11, err_msg=name)
            mass = weights[padded[group]].sum().item()
            assert mass == pytest.approx(want['mass_on_padding'], abs=1e-12)
