import json

import count
import pytest
from _models import build_part, read_config
from mmengine.registry import MODELS
from rooms import BACKBONES
from torch import nn


def test_prints_a_table_and_writes_json(toy_config, tmp_path, capsys):
    out = tmp_path / 'new' / 'counts.json'
    count.main([toy_config, *['--shape', '64', '96', '--part', 'neck', '--json'], str(out)])
    text = capsys.readouterr().out
    assert 'one image of 64 x 96' in text and 'one multiply + one add = 1' in text
    written = json.loads(out.read_text())
    assert list(written['macs']) == ['stem', 'assign', 'neck']
    assert sum(sum(kinds.values()) for kinds in written['macs'].values()) == written['total_macs']
    assert f'{written["total_macs"]:,} multiply-adds' in text
    # 8 x 12 patches of 8 channels to 5 clusters
    assert written['macs']['assign'] == dict(clustering=8 * 12 * 8 * 5)


def test_a_part_is_as_much_as_its_rows(toy_config):
    cfg = read_config(toy_config, {})
    backbone = count.count(build_part(cfg, 'backbone'), (64, 64))
    both = count.count(build_part(cfg, 'neck'), (64, 64))
    assert {**both.macs, **backbone.macs} == both.macs
    assert both.total_params == backbone.total_params + sum(both.params['neck'].values())


def test_whole_pose_model_with_options(commands, capsys):
    pytest.importorskip('mmpose')
    options = '--shape 64 64 --convention original --cfg-options model.head.out_channels=3'
    count.main([str(commands.demo_config), *options.split()])
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith('head '))
    assert head.split()[1] == '0.000' and 'convention original' in text


def test_models_without_published_arithmetic():
    with pytest.raises(ValueError, match="got a Sequential without; use the convention 'exact'"):
        count.count(nn.Sequential(nn.Conv2d(3, 3, 1)), (64, 64), 'original')


@pytest.mark.parametrize('channels', [1, 4])
def test_channels_are_those_of_the_model(toy_config, channels):
    cfg = read_config(toy_config, {'model.backbone.in_channels': channels})
    model = build_part(cfg, 'backbone')
    assert count.count(model, (64, 64)).macs_of('conv') == 8 * 8 * 8 * channels * 64


def test_whole_detector(tmp_path, capsys):
    pytest.importorskip('mmdet')
    channels = list(MODELS.build(BACKBONES[0]).out_channels)
    path = tmp_path / 'detector.py'
    path.write_text(f"""
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(_delete_=True, **{BACKBONES[0]}),
    neck=dict(in_channels={channels}),
    test_cfg=dict(rpn=dict(max_per_img=5)),
)
""")
    out = tmp_path / 'counts.json'
    count.main([str(path), '--shape', '64', '96', '--json', str(out)])
    macs = json.loads(out.read_text())['macs']
    stages = [f'stage {i + 1}' for i in range(len(channels))]
    assert list(macs) == ['stem', *stages, 'neck', 'rpn_head', 'roi_head']
    # two shared layers and two outputs, for each of 5 proposals
    assert macs['roi_head']['linear'] == 5 * 1024 * (256 * 49 + 1024 + 81 + 320)
    # a 3x3 and two 1x1 convolutions on the cells of five levels
    cells = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert macs['rpn_head']['conv'] == cells * 256 * (256 * 9 + 3 + 12)
    assert 'running on the CPU' in capsys.readouterr().err


def test_shapes_that_depend_on_values_run_on_the_cpu(toy_config, capsys):
    model = build_part(read_config(toy_config, {}), 'backbone')
    model.register_forward_hook(lambda _m, _a, out: out[0][out[0] > 0].sum().item())
    assert count.count(model, (64, 64)).total_macs > 0
    assert 'running on the CPU' in capsys.readouterr().err


@pytest.mark.parametrize(
    'shape, options, message',
    [
        ('16 64', '--part backbone', 'at least 29 pixels .* got 16x64'),
        ('64 64', '--cfg-options modle.backbone.arch=large', "'modle.backbone.arch'.*model"),
    ],
)
def test_bad_input(toy_config, shape, options, message):
    with pytest.raises(ValueError, match=message):
        count.main([toy_config, '--shape', *shape.split(), *options.split()])


def test_config_without_a_model(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1')
    with pytest.raises(ValueError, match=r"must define model.backbone, got '.*a.py' with no model"):
        count.main([str(tmp_path / 'a.py'), '--shape', '64', '64'])
    with pytest.raises(ValueError, match="config must be a file or .*, got 'nowhere.py'"):
        count.main(['nowhere.py', '--shape', '64', '64'])


def test_class_of_nobody(tmp_path):
    (tmp_path / 'a.py').write_text("model = dict(backbone=dict(type='Nonesuch'))")
    with pytest.raises(ValueError, match="registered class, got 'Nonesuch'"):
        count.main([str(tmp_path / 'a.py'), *['--shape', '64', '64', '--part', 'backbone']])
