"""Equality with the authors' models on every golden case that is present."""

import pytest
import torch
from golden import cases as golden
from mmtoken import MTA, TCFormer
from mmtoken.tcformer.clustering import cluster_dpc_knn
from mmtoken.tcformer.ctm import merge_tokens
from mmtoken.tcformer.tokens import (
    TokenSet,
    interpolate_tokens,
    map_index,
    map_to_tokens,
    tokens_to_map,
)
from torch import nn

MODELS = golden.names('tcformer')


def arch_of(case):
    spec = case['architecture']
    return {
        key: spec[key] for key in ('depths', 'embed_dims', 'num_heads', 'mlp_ratios', 'sr_ratios')
    }


def build_neck(case):
    spec = case['architecture']['neck']
    return MTA(
        spec['in_channels'],
        spec['out_channels'],
        spec['num_heads'],
        spec['mlp_ratios'],
        'conv' if spec['use_sr_layer'] else 'avg_pool',
        sr_ratios=spec['sr_ratios'],
        num_outs=spec['num_outs'],
    ).double()


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_model(name):
    """In float64 and float32; the weights are made once."""
    case = golden.CASES[name]
    has_neck = 'neck' in case['architecture']
    state = golden.state(case, 'backbone.' if has_neck else '')
    head = {key: state.pop(key) for key in list(state) if key.startswith('head.')}
    model = nn.Module()
    with golden.without_initial_values():
        model.backbone = TCFormer(arch_of(case)).double()
    model.backbone.load_state_dict(state, strict=True)
    if has_neck:
        model.neck = build_neck(case)
        model.neck.load_state_dict(golden.state(case, 'neck.'), strict=True)
    model.eval()
    for dtype, atol in ((torch.float64, 3e-6), (torch.float32, 4e-5 if has_neck else 2e-5)):
        model.to(dtype)
        stages = model.backbone(golden.image(case).to(dtype))
        if has_neck:
            outputs = {f'out{i}': value for i, value in enumerate(model.neck(stages))}
        elif head:
            weight, bias = (head[f'head.{key}'].to(dtype) for key in ('weight', 'bias'))
            outputs = {'logits': stages[-1].x.mean(1) @ weight.T + bias}
        else:
            outputs = {f'map{i}': tokens_to_map(stage) for i, stage in enumerate(stages, 1)}
        stored = {output['name'] for output in case['outputs']}
        for i, stage in enumerate(stages, 1):
            outputs[f'idx_token{i}'] = stage.assign_idx
            outputs[f'agg_weight{i}'] = stage.token_weight[..., 0]
        golden.check(case, {key: value for key, value in outputs.items() if key in stored}, atol)


@pytest.mark.parametrize('name', MODELS)
def test_parameter_names_and_order_are_the_released_ones(name):
    case = golden.CASES[name]
    has_neck = 'neck' in case['architecture']
    with torch.device('meta'):
        parts = {'backbone.' if has_neck else '': TCFormer(arch_of(case))}
        if has_neck:
            parts['neck.'] = build_neck(case)
    own = {
        prefix + key: tuple(value.shape)
        for prefix, part in parts.items()
        for key, value in part.state_dict().items()
    }
    released = {
        key: tuple(shape) for key, shape, _ in golden.keys(case) if not key.startswith('head.')
    }
    assert own == released and list(own) == list(released)


@pytest.mark.parametrize('name', golden.names('unit_dpc'))
def test_clustering_and_merging(name):
    case, fill = golden.CASES[name], golden.fill
    batch, count, _ = case['input_shape']
    seed = case['seed']
    x = golden.image(case)
    weight = torch.from_numpy(fill.make_positive(seed + 1000, [batch, count, 1]))
    if 'make_index' in case['input']:
        cells, init_hw = 600, (20, 30)
        owner = torch.from_numpy(fill.make_index(seed + 2000, batch, cells, count))
    else:
        cells, init_hw = count, (8, 8)
        owner = torch.arange(count).expand(batch, -1)
    old = torch.from_numpy(fill.make_positive(seed + 3000, [batch, cells, 1]))
    tokens = TokenSet(x, owner, old, init_hw, init_hw)

    found = cluster_dpc_knn(x, case['cluster_num'], case['k'])
    merged = merge_tokens(tokens, found.assign_idx, found.num_clusters, weight)
    uniform = merge_tokens(tokens, found.assign_idx, found.num_clusters)
    golden.check(
        case,
        {
            'idx_cluster': found.assign_idx,
            'centers': found.center_idx,
            'center_score': found.center_score,
            'x_merged': merged.x,
            'idx_token_new': merged.assign_idx,
            'agg_weight_new': merged.token_weight[..., 0],
            'x_merged_uniform': uniform.x,
            'agg_weight_new_uniform': uniform.token_weight[..., 0],
        },
        3e-6,
    )


@pytest.mark.parametrize('name', golden.names('unit_convert'))
def test_tokens_and_maps(name):
    case, fill = golden.CASES[name], golden.fill
    (batch, count, dim), seed, sources = case['input_shape'], case['seed'], case['source_tokens']
    init_hw, hw = tuple(case['init_grid']), tuple(case['map_size'])
    cells = init_hw[0] * init_hw[1]
    on_grid = 'idx_token = arange' in case['input']
    if on_grid:
        owner = torch.arange(cells).expand(batch, -1)
    else:
        owner = torch.from_numpy(fill.make_index(seed + 1, batch, cells, count))
    weight = torch.from_numpy(fill.make_positive(seed + 3, [batch, cells, 1]))
    x = torch.from_numpy(fill.make_input(seed, [batch, count, dim]))
    feature_map = torch.from_numpy(fill.make_input(seed + 2, [batch, dim, *hw]))
    other = torch.from_numpy(fill.make_input(seed + 4, [batch, sources, dim]))
    other_owner = torch.from_numpy(fill.make_index(seed + 5, batch, cells, sources))
    target = TokenSet(x, owner, weight, init_hw, hw, on_grid)
    source = TokenSet(other, other_owner, weight, init_hw, hw)
    even = TokenSet(x, owner, torch.ones_like(weight), init_hw, hw, on_grid)
    golden.check(
        case,
        {
            'token2map': tokens_to_map(target),
            'map2token': map_to_tokens(feature_map, target),
            'token_downup': interpolate_tokens(target, source),
            'token_downup_reverse': interpolate_tokens(source, target),
            'token_downup_no_weight': interpolate_tokens(even, source),
            'grid_index': map_index(init_hw, hw, x.device)[None],
        },
        3e-6,
    )


def test_rule_makes_the_values_that_the_cases_were_made_with():
    check = golden.INDEX['generator_checks']
    for entry in check['fill']:
        value = golden.fill.fill(entry['key'], entry['shape'])
        assert abs(value.sum() - entry['sum']) < check['tolerance'] * value.size
