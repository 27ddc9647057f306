import json

import bench
import mmengine
import pytest

ENTRY = {
    'title': 'toys',
    'run': '--shape 32 32 --warmup 0 --train --part backbone --backbone plain ToyBackbone '
    '--backbone cp ToyBackbone with_cp=True',
    'targets': {'cp': {'forward': 1e6, 'train': 1e-6, 'train memory': 1.0}},
}


def write(path, **changes):
    mmengine.dump([{**ENTRY, **changes}], path)
    return str(path)


def test_ratios_stand_next_to_their_targets(tmp_path, capsys):
    out = tmp_path / 'numbers.json'
    bench.main([write(tmp_path / 'list.yml'), '--rounds', '2', '--json', str(out)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| toys')]
    assert [line.split(' | ')[1:3] + line.split(' | ')[4:] for line in table] == [
        ['cp', 'forward', '1000000.0', 'yes |'],
        ['cp', 'train', '1e-06', 'no |'],
        ['cp', 'train memory', '1.0', 'yes |'],
    ]
    assert len(json.loads(out.read_text())['toys']['train']['cp']['cpu_ms']) == 2


def test_bad_input(tmp_path):
    path = write(tmp_path / 'list.yml', targets={'cp': {'speed': 1.0}})
    with pytest.raises(ValueError, match=r"targets must be of .*'forward'.*, got \['speed'\]"):
        bench.main([path])
    with pytest.raises(ValueError, match="must be part of a title in .*list.yml, got 'nothing'"):
        bench.main([path, '--only', 'nothing'])
