import json

import complexity
import pytest
from _models import UsageError


def test_prints_a_table_and_writes_json(tiny_config, tmp_path, capsys):
    out = tmp_path / 'new' / 'counts.json'
    complexity.main([tiny_config, *['--shape', '64', '96', '--part', 'neck', '--json'], str(out)])
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
    cfg = complexity.read_config(tiny_config, {})
    backbone = complexity.count(complexity.build_part(cfg, 'backbone'), (64, 64))
    both = complexity.count(complexity.build_part(cfg, 'neck'), (64, 64), device='cpu')
    assert {**both.macs, **backbone.macs} == both.macs
    assert both.total_params == backbone.total_params + sum(both.params['neck'].values())


def test_whole_pose_model_with_options(commands, capsys):
    pytest.importorskip('mmpose')
    options = '--shape 64 64 --convention original --cfg-options model.head.out_channels=3'
    complexity.main([str(commands.demo_config), *options.split()])
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith('head '))
    assert head.split()[1] == '0.000' and 'convention original' in text


def test_shapes_that_depend_on_values_run_on_the_cpu(tiny_config, capsys):
    model = complexity.build_part(complexity.read_config(tiny_config, {}), 'backbone')
    model.register_forward_hook(lambda _m, _a, out: out[0].x[out[0].x > 0].sum().item())
    assert complexity.count(model, (64, 64)).total_macs > 0
    assert 'running on the CPU' in capsys.readouterr().err
    with pytest.raises(UsageError, match='needs values, not shapes alone .* --device cpu'):
        complexity.count(model, (64, 64), device='fake')


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
        complexity.main([tiny_config, '--shape', *shape.split(), *options.split()])


def test_config_without_a_model(tmp_path):
    (tmp_path / 'a.py').write_text('x = 1')
    with pytest.raises(UsageError, match=r"must define model.backbone, got '.*a.py' with no model"):
        complexity.main([str(tmp_path / 'a.py'), '--shape', '64', '64'])
    with pytest.raises(UsageError, match="config must be a file, got 'nowhere.py'"):
        complexity.main(['nowhere.py', '--shape', '64', '64'])


def test_class_of_nobody(tmp_path):
    (tmp_path / 'a.py').write_text("model = dict(backbone=dict(type='Nonesuch'))")
    with pytest.raises(UsageError, match='registered classes, got .*Nonesuch'):
        complexity.main([str(tmp_path / 'a.py'), *['--shape', '64', '64', '--part', 'backbone']])
