import csv
import json

import numpy as np
import pytest
from mmtoken.query_key import figures, reference
from mmtoken.query_key.adapters import find_layers
from mmtoken.query_key.interaction import random_band
from mmtoken.query_key.report import analyse, find_layer, read_report


def test_numbers_of_a_layer(pyramid):
    model = pyramid
    report = analyse(model)
    one = report.layers[1]
    weight = model[1].qkv.weight.detach().double()
    want = [
        reference.describe(weight[h : h + 4].numpy(), weight[16 + h : 20 + h].numpy())
        for h in (0, 4, 8, 12)
    ]
    for name in ('cos_avg', 'effective_rank', 'asymmetry', 'cos'):
        np.testing.assert_allclose(getattr(one, name), [head[name] for head in want], atol=1e-9)
    assert (one.name, one.kind, one.dim) == ('1', 'Sequential.Attention', 16)
    assert one.random_band == random_band(16) and one.mean == np.mean(one.cos_avg)


def test_table_lists_what_is_skipped(pyramid):
    lines = analyse(pyramid).table().splitlines()
    assert len(lines) == 4 and lines[1].split()[:3] == ['0', '2', '8']
    assert lines[3] == '2      skipped: linear attention has no logits (Sequential.LinearAttention)'


def test_files(tmp_path, pyramid):
    report = analyse(pyramid)
    report.write(tmp_path)
    assert read_report(tmp_path) == read_report(tmp_path / 'query_key.json') == report
    rows = list(csv.DictReader((tmp_path / 'query_key.csv').open()))
    assert len(rows) == 8 + 16 and float(rows[-1]['cos']) == report.layers[1].cos[3][3]


@pytest.mark.parametrize('text', ['no json', '[]', '{"layers": [{"a": 1}], "skipped": []}'])
def test_a_file_of_another_kind(tmp_path, text):
    (tmp_path / 'query_key.json').write_text(text)
    with pytest.raises(ValueError, match='must be a query_key.json of the command analyze'):
        read_report(tmp_path)


def test_layers_by_number_and_name(pyramid):
    layers, _ = find_layers(pyramid)
    assert find_layer(layers, '1') is layers[1] and find_layer(layers[1:], '1') is layers[1]
    with pytest.raises(ValueError, match=r"must be one of 0: 0, 1: 1; got '2'"):
        find_layer(layers, '2')


def test_rotary_layers_have_offsets():
    from mmengine.registry import MODELS

    arch = dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=16)
    model = MODELS.build(dict(type='PlainViT', rope='dinov3', img_size=None, arch=arch))
    one = analyse(model).layers[0]
    assert one.cos_avg_at.keys() == {'rows', 'columns'}
    assert {len(heads) for heads in one.cos_avg_at['rows'].values()} == {2}
    assert one.cos_avg_at['rows'] != one.cos_avg_at['columns']
    assert json.dumps(one.cos_avg_at)


def test_figures(tmp_path, pyramid):
    """They are drawn of one layer, too; what they show was looked at."""
    few, many = analyse(pyramid[0]).layers, analyse(pyramid).layers
    for layers in (few, many):
        for i, draw in enumerate((figures.draw_spectra, figures.draw_histogram)):
            draw(layers).savefig(tmp_path / f'{i}.png')
    axes = figures.draw_curves({'few': few, 'many': many}).axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines['many'], [one.mean for one in many])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ['few', 'many', '95 % of random cosines']


@pytest.mark.slow
@pytest.mark.parametrize(
    'config',
    [
        dict(type='mmdet.SwinTransformer'),
        dict(type='mmdet.PyramidVisionTransformer', pretrain_img_size=224),
        dict(type='mmdet.PyramidVisionTransformerV2', embed_dims=32),
        dict(type='mmseg.SwinTransformer', embed_dims=128, num_heads=(4, 8, 16, 32)),
        dict(type='mmseg.MixVisionTransformer', embed_dims=32, num_heads=[1, 2, 5, 8]),
        dict(type='mmseg.VisionTransformer'),
        dict(type='mmseg.BEiT'),
        dict(type='mmseg.MAE'),
        dict(type='mmseg.PCPVT', embed_dims=[64, 128, 320, 512], num_heads=[1, 2, 5, 8]),
        dict(type='mmpose.SwinTransformer'),
        dict(type='TCFormer', arch='base'),
        dict(type='PaCaViT', arch='tiny'),
        dict(type='STViTR', arch='tiny'),
        dict(type='MaxViT', arch='tiny'),
        dict(type='PlainViT', arch='base'),
    ],
    ids=lambda config: config['type'],
)
def test_random_weights_are_in_the_random_band(config):
    from mmengine.registry import MODELS

    if '.' in config['type']:
        pytest.importorskip(f'{config["type"].split(".")[0]}.models')
    report = analyse(MODELS.build(config))
    assert len(report.layers) >= 8 and not report.skipped
    for one in report.layers:
        assert abs(one.mean) < one.random_band, one.name
    inside = [abs(c) < one.random_band for one in report.layers for c in np.ravel(one.cos)]
    assert 0.92 < np.mean(inside) < 0.98
