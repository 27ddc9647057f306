import json

import count
import pytest
from _models import UsageError
from torch import nn


def test_prints_a_table_and_writes_json(tiny_config, tmp_path, capsys):
    out = tmp_path / 'new' / 'counts.json'
    count.main([tiny_config, *['--shape', '64', '96', '--part', 'neck', '--json'], str(out)])
    text = capsys.readouterr().out
    assert 'one image of 64 x 96' in text and 'one multiply + one add = 1' in text
    written = json.loads(out.read_text())
    assert list(written['macs']) == ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4', 'neck']
    assert sum(sum(kinds.values()) for kinds in written['macs'].values()) == written['total_macs']
    assert f'{written["total_macs"]:,} multiply-adds' in text
    # N = 16 x 24 tokens of 16 channels, then a quarter of 24 channels
    assert written['macs']['stage 2']['clustering'] == 384**2 * 16
    assert written['macs']['stage 3']['clustering'] == 96**2 * 24


def test_a_part_is_as_much_as_its_rows(tiny_config):
    cfg = count.read_config(tiny_config, {})
    backbone = count.count(count.build_part(cfg, 'backbone'), (64, 64))
    both = count.count(count.build_part(cfg, 'neck'), (64, 64), device='cpu')
    assert {**both.macs, **backbone.macs} == both.macs
    assert both.total_params == backbone.total_params + sum(both.params['neck'].values())


def test_whole_pose_model_with_options(commands, capsys):
    pytest.importorskip('mmpose')
    options = '--shape 64 64 --convention original --cfg-options model.head.out_channels=3'
    count.main([str(commands.demo_config), *options.split()])
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith('head '))
    assert head.split()[1] == '0.000' and 'convention original' in text


def test_original_is_that_of_the_model(paca_config, tiny_config, stvit_config):
    counts = {}
    for config in (paca_config, tiny_config, stvit_config):
        model = count.build_part(count.read_config(config, {}), 'backbone')
        counts[config] = [count.count(model, (64, 64), how) for how in ('exact', 'original')]
    assert counts[paca_config][0].macs == counts[paca_config][1].macs  # no teacher, no PaCaHead
    assert counts[tiny_config][0].macs != counts[tiny_config][1].macs
    # keys of recovery in two units: 3x3 of them, or 27x27 with what is outside
    ours, original = (counted.macs['stage 3']['linear'] for counted in counts[stvit_config])
    assert original > 2 * 27**2 * 2 * 32**2 > ours
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    with pytest.raises(UsageError, match='got a Sequential without any'):
        count.count(model, (64, 64), 'original')


@pytest.mark.parametrize(
    'name, ours, published',
    [
        ('tiny_pacahead', 27.10, 34.14),
        pytest.param('tiny-teacher_pacahead', 27.39, 34.94, marks=pytest.mark.slow),
        pytest.param('small_pacahead', 39.93, 46.97, marks=pytest.mark.slow),
        pytest.param('small-mlp_pacahead', 42.63, 49.68, marks=pytest.mark.slow),
        pytest.param('small-m100x4_pacahead', 39.97, 47.01, marks=pytest.mark.slow),
        pytest.param('small-blockwise_pacahead', 43.55, 50.59, marks=pytest.mark.slow),
        pytest.param('small-teacher_pacahead', 38.92, 46.47, marks=pytest.mark.slow),
        pytest.param('base_pacahead', 61.18, 68.22, marks=pytest.mark.slow),
        pytest.param('base-teacher_pacahead', 61.21, 68.86, marks=pytest.mark.slow),
        pytest.param('tiny_upernet', 229.5, 229.5, marks=pytest.mark.slow),
        pytest.param('small_upernet', 242.3, 242.3, marks=pytest.mark.slow),
        pytest.param('base_upernet', 263.8, 263.8, marks=pytest.mark.slow),
    ],
)
def test_published_figures_of_segmentors(commands, name, ours, published):
    """Whole models at 512x512; ours is the cheaper of two equal formulations of the head."""
    pytest.importorskip('mmseg')
    folder = commands.demo_config.parents[1] / 'paca_vit'
    config = next(folder.glob(f'paca-vit-{name}_*ade20k-512x512.py'))
    model = count.build_part(count.read_config(str(config), {}), 'model').eval()
    counts = [count.count(model, (512, 512), how) for how in ('exact', 'original')]
    digits = len(str(published).partition('.')[2])
    totals = [c.total_macs / 1e9 for c in counts]
    # 242.3 was rounded down from 242.352
    assert totals == pytest.approx([ours, published], abs=0.6 * 10**-digits)
    head = [sum(c.macs['decode_head'].values()) / 1e9 for c in counts]
    if 'pacahead' in name:
        assert head == pytest.approx([8.46, 15.50], abs=0.02)
    assert 'other' not in counts[0].macs and counts[0].uncounted == ()


def test_whole_detector(commands, tmp_path, capsys):
    pytest.importorskip('mmdet')
    arch = dict(depths=(1,) * 4, embed_dims=(16,) * 4, num_heads=(1,) * 4, mlp_ratios=(1,) * 4)
    path = tmp_path / 'detector.py'
    base = next((commands.demo_config.parents[1] / 'paca_vit').glob('mask-rcnn_*tiny_fpn_1x_coco*'))
    path.write_text(f"""
_base_ = '{base}'
model = dict(
    backbone=dict(_delete_=True, type='PaCaViT', arch={arch}, num_clusters=(3, 3, 3, 0)),
    neck=dict(in_channels=[16, 16, 16, 16]),
    test_cfg=dict(rpn=dict(max_per_img=5)),
)
""")
    out = tmp_path / 'counts.json'
    count.main([str(path), '--shape', '64', '96', '--json', str(out)])
    macs = json.loads(out.read_text())['macs']
    stages = [f'stage {i}' for i in (1, 2, 3, 4)]
    assert list(macs) == ['stem', *stages, 'neck', 'rpn_head', 'roi_head']
    # two shared layers and two outputs, for each of 5 proposals
    assert macs['roi_head']['linear'] == 5 * 1024 * (256 * 49 + 1024 + 81 + 320)
    # a 3x3 and two 1x1 convolutions on the cells of five levels
    cells = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert macs['rpn_head']['conv'] == cells * 256 * (256 * 9 + 3 + 12)
    assert macs['stage 1']['clustering'] > 0 and 'clustering' not in macs['stage 4']
    assert 'running on the CPU' in capsys.readouterr().err


def test_shapes_that_depend_on_values_run_on_the_cpu(tiny_config, capsys):
    model = count.build_part(count.read_config(tiny_config, {}), 'backbone')
    model.register_forward_hook(lambda _m, _a, out: out[0].x[out[0].x > 0].sum().item())
    assert count.count(model, (64, 64)).total_macs > 0
    assert 'running on the CPU' in capsys.readouterr().err
    with pytest.raises(UsageError, match='needs values, not shapes alone .* --device cpu'):
        count.count(model, (64, 64), device='fake')


@pytest.mark.parametrize(
    'shape, options, message',
    [
        ('0 64', '', r'--shape must be two positive numbers H W, got \(0, 64\)'),
        ('16 64', '--part backbone', 'at least 29 pixels .* got 16x64'),
        ('64 64', '--cfg-options modle.backbone.arch=large', "'modle.backbone.arch'.*model"),
    ],
)
def test_bad_input(tiny_config, shape, options, message):
    with pytest.raises(UsageError, match=message):
        count.main([tiny_config, '--shape', *shape.split(), *options.split()])


def test_config_without_a_model(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1')
    with pytest.raises(UsageError, match=r"must define model.backbone, got '.*a.py' with no model"):
        count.main([str(tmp_path / 'a.py'), '--shape', '64', '64'])
    with pytest.raises(UsageError, match="config must be a file, got 'nowhere.py'"):
        count.main(['nowhere.py', '--shape', '64', '64'])


def test_class_of_nobody(tmp_path):
    (tmp_path / 'a.py').write_text("model = dict(backbone=dict(type='Nonesuch'))")
    with pytest.raises(UsageError, match='registered classes, got .*Nonesuch'):
        count.main([str(tmp_path / 'a.py'), *['--shape', '64', '64', '--part', 'backbone']])
