"""The tool that puts a backbone into any config: one cell per backbone and host, and refusals.

``test_every_cell`` is the whole matrix of ``swap_matrix.py``, whose result is in docs/swap.md.
"""

import re
import sys

import pytest
import swap_backbone
from _errors import UsageError
from _one_step import train_and_predict, without_gradient
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from swap_backbone import adapt_optimizer, changes, check, make, render
from tools.swap_matrix import BACKBONES, DOCS, HOSTS, cell, diagonal

TABLE = {
    row[0]: row[1:]
    for line in DOCS.read_text(encoding='utf-8').splitlines()
    if (row := [entry.strip() for entry in line.strip('|').split('|')]) and row[0] in HOSTS
}


RATE = 0.5


def cell_id(one):
    return one if isinstance(one, str) else one['type']


def host_of(name):
    return HOSTS[name].partition('::')[0]


@pytest.mark.parametrize(('name', 'backbone'), diagonal(), ids=cell_id)
def test_trains_predicts_and_decays(name, backbone, tmp_path):
    """Every parameter gets a finite gradient, and its learning rate follows its depth."""
    pytest.importorskip(host_of(name))
    text, cfg = make(HOSTS[name], backbone, tmp_path, RATE)
    assert len(text.splitlines()) < 60
    model, predictions = train_and_predict(cfg, host_of(name))
    assert without_gradient(model) == []
    assert len(predictions) == 1
    assert any(key.startswith('pred') for key in predictions[0].keys())  # noqa: SIM118  no dict

    decayed, plain = (learning_rates(model, cfg, rate) for rate in (RATE, 1))
    for key, parameter in model.named_parameters():
        depth, number = model.backbone.get_layer_depth(key, 'backbone.')
        expected = plain[id(parameter)] * RATE ** (number - depth - 1)
        assert decayed[id(parameter)] == pytest.approx(expected), key


def learning_rates(model, cfg, rate):
    """Learning rate of each parameter, by its id."""
    cfg.optim_wrapper.paramwise_cfg.layer_decay_rate = rate
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    return {id(parameter): group['lr'] for group in groups for parameter in group['params']}


@pytest.mark.slow
@pytest.mark.parametrize('backbone', BACKBONES, ids=cell_id)
@pytest.mark.parametrize('name', HOSTS)
def test_every_cell(name, backbone, tmp_path):
    pytest.importorskip(host_of(name))
    assert cell(name, backbone, tmp_path) == TABLE[name][BACKBONES.index(backbone)]


def test_the_table_is_complete():
    assert list(TABLE) == list(HOSTS)
    assert {len(row) for row in TABLE.values()} == {len(BACKBONES)}
    types = ' | '.join(one['type'] for one in BACKBONES)
    assert f'| model | {types} |\n' in DOCS.read_text(encoding='utf-8')
    refused = {name for name, row in TABLE.items() if 'refused' in row}
    assert refused == {'associative embedding'}


def test_example_of_the_docs(tmp_path):
    """The command in the document writes what follows it."""
    pytest.importorskip('mmdet')
    text = DOCS.read_text(encoding='utf-8')
    config, *options = re.search(r'python tools/swap_backbone.py (.*)', text).group(1).split()
    given = dict(zip(options[::2], options[1::2]))
    backbone = dict(type=given['--backbone'], arch=given['--arch'])
    shown = re.search(r'```python\n(.*?)```', text, re.DOTALL).group(1)
    assert make(config, backbone, tmp_path)[0] == shown


@pytest.fixture
def run_tool(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['swap_backbone.py', *map(str, arguments)])
        swap_backbone.main()
        return capsys.readouterr().out

    return run


def test_one_map_of_a_plain_backbone(tmp_path):
    """Lists of necks are ignored by mmpose: a neck without channels is kept, or gives way."""
    pytest.importorskip('mmpose')
    plain = [one for one in BACKBONES if len({*built_strides(one)}) == 1]
    assert plain
    for backbone in plain:
        model = make(HOSTS['regression'], backbone, tmp_path)[1].model
        assert model.neck.type == 'GlobalAveragePooling'
        assert model.head.in_channels == MODELS.build(backbone).out_channels[-1]
        model = make(HOSTS['DEKR'], backbone, tmp_path)[1].model
        assert isinstance(model.neck, dict) and 'in_channels' in model.neck
        assert model.head.in_channels == model.neck.out_channels


def built_strides(backbone):
    """Strides of all stages."""
    stages = tuple(range(MODELS.build(backbone).num_stages))
    return MODELS.build(dict(backbone, out_indices=stages)).out_strides


def test_command_line(run_tool, tmp_path):
    """The base is a file in another folder; the new config needs nothing but the package."""
    pytest.importorskip('mmseg')
    base, out = tmp_path / 'own/base.py', tmp_path / 'new/swapped.py'
    base.parent.mkdir()
    head = 'model = dict(decode_head=dict(num_classes=2))'
    base.write_text(f'_base_ = {HOSTS["SegFormer"]!r}\n{head}\n')
    backbone = BACKBONES[0]
    options = ('--options', 'drop_path_rate=0.25', '--layer-decay', 0.9)
    seen = run_tool(base, '--backbone', backbone['type'], *options, '-o', out)
    assert seen == f'{out}: one training step and 1 prediction\n'
    cfg = Config.fromfile(out)
    assert cfg.model.decode_head.num_classes == 2
    assert cfg.model.backbone == dict(type=backbone['type'], drop_path_rate=0.25)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.9
    assert list(out.parent.iterdir()) == [out]


def test_weights_are_loaded(run_tool, tmp_path):
    pytest.importorskip('mmseg')
    out, missing = tmp_path / 'new.py', tmp_path / 'weights.pth'
    options = ('--backbone', BACKBONES[0]['type'], '--weights', missing, '-o', out)
    with pytest.raises(UsageError, match=f'segformer.* must work .*{missing}'):
        run_tool(HOSTS['SegFormer'], *options)
    assert not out.exists()


STUB = dict(type='StubBackbone', arch='tiny')
REFUSED = {
    'no file': ('own.py', STUB, "a file or host::path, got 'own.py'"),
    'no backbone': (
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
        STUB,
        'must have a model with a backbone',
    ),
    'not ours': (HOSTS['RetinaNet'], dict(type='ResNet', depth=18), "of mmtoken, got 'ResNet'"),
    'unknown': (HOSTS['RetinaNet'], dict(type='Unknown'), "registered class, got 'Unknown'"),
    'unused pipeline': (HOSTS['associative embedding'], STUB, 'must have a pipeline, got an empty'),
    'shared head': (
        'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',
        STUB,
        'must work with another backbone, got RuntimeError: Given groups=1',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refusals(case, tmp_path):
    config, backbone, message = REFUSED[case]
    if '::' in config:
        pytest.importorskip(config.partition('::')[0])
    with pytest.raises(UsageError, match=re.escape(message)):
        check(config, make(config, backbone, tmp_path)[1])
    assert not list(tmp_path.iterdir())


def test_output_must_be_another_file(run_tool, tmp_path):
    path = tmp_path / 'base.py'
    path.write_text('')
    with pytest.raises(UsageError, match='--out must differ from the config'):
        run_tool(path, '--backbone', 'StubBackbone', '-o', path)
    with pytest.raises(UsageError, match='--out must name a .py file'):
        run_tool(path, '--backbone', 'StubBackbone', '-o', tmp_path / 'new.yaml')


def test_maps_that_do_not_fit(tmp_path):
    """A stride that the backbone does not have; channels that the base itself does not have."""
    pytest.importorskip('mmdet')
    base = tmp_path / 'base.py'
    text = "backbone=dict(_delete_=True, type='Darknet', out_indices=(1, 2, 3))"
    neck = 'neck=dict(in_channels=[64, 128, 256], start_level=0)'
    base.write_text(f'_base_ = {HOSTS["RetinaNet"]!r}\nmodel = dict({text}, {neck})\n')
    message = r'strides that the config reads, \[2, 4, 8\], got \[4, 8, 16, 32\]'
    with pytest.raises(UsageError, match=message):
        make(str(base), STUB, tmp_path)
    base.write_text(
        base.read_text().replace("type='Darknet'", "type='ResNet', depth=18, strides=(1,) * 4")
    )
    with pytest.raises(
        UsageError, match='several strides, or one map, got 3 maps of ResNet with 4'
    ):
        make(str(base), STUB, tmp_path)
    base.write_text(base.read_text().replace(', strides=(1,) * 4', '').replace('256]', '257]'))
    with pytest.raises(UsageError, match=r'of the backbone, \[128, 256, 512\], got \[64, 128, 257'):
        make(str(base), STUB, tmp_path)


def test_optimizer_settings():
    """The constructors of hosts give way to ours; a rate that a config has stays."""
    paramwise = dict(norm_decay_mult=0.0, custom_keys=dict(pos=dict(decay_mult=0.0)))
    adam, adamw = dict(type='Adam', lr=1.0), dict(type='AdamW', lr=1.0, weight_decay=0.1)

    def adapted(optimizer, rate=None, own=paramwise, **given):
        wrapper = dict(optimizer=optimizer, **given)
        adapt_optimizer(wrapper, 'mmseg', own, rate)
        return wrapper

    assert adapted(adamw) == dict(optimizer=adamw, paramwise_cfg=paramwise)
    assert adapted(adam) == dict(optimizer=adam)  # without a weight decay to be turned off
    assert adapted(dict(type='SGD', lr=0.01))['optimizer']['type'] == 'AdamW'
    theirs = dict(decay_rate=0.8, decay_type='layer_wise', num_layers=12)
    names = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimWrapperConstructor')
    for name in names:
        found = adapted(adamw, constructor=name, paramwise_cfg=theirs)
        assert found['constructor'] == 'LayerDepthOptimWrapperConstructor'
        assert found['paramwise_cfg'] == dict(paramwise, layer_decay_rate=0.8)
    # a backbone with a rate of its own
    backbone = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
    own = dict(paramwise, layer_decay_rate=0.7)
    assert adapted(adamw, own=own)['paramwise_cfg']['layer_decay_rate'] == 0.7
    found = adapted(adamw, own=own, paramwise_cfg=backbone)
    assert 'constructor' not in found
    assert found['paramwise_cfg']['custom_keys']['pos'] == dict(lr_mult=0.1, decay_mult=0.0)


def test_changes_are_what_mmengine_merges(tmp_path):
    old = dict(type='A', same=1, nested=dict(type='B', x=1, y=[1, 2]), gone=dict(z=1, w=2))
    new = dict(old, nested=dict(type='B', x=2, y=[1]), gone=dict(z=1), more={'a.b': {}})
    found = changes(new, old)
    assert 'same' not in found and found['gone'] == dict(_delete_=True, z=1)
    base, child = tmp_path / 'base.py', tmp_path / 'child.py'
    base.write_text(f'model = {render(old)}\n')
    child.write_text(f"_base_ = 'base.py'\nmodel = {render(found, 4, dict(nested='why'))}\n")
    assert Config.fromfile(child).model == new
    assert '    # why\n    nested=dict(' in child.read_text()
