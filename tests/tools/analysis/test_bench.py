import importlib
import json
import shlex

import bench
import compare_speed
import mmengine
import pytest
from _checkouts import ROOT

ENTRY = {
    'title': 'toys',
    'run': '--shape 32 32 --shape 64 64 --warmup 0 --train --part backbone '
    '--backbone plain ToyBackbone --backbone cp ToyBackbone with_cp=True',
    'rounds': 2,
    'targets': {
        'cp': {'forward': 1e6, 'train': '>= 1e6', 'train memory': 1.0, 'forward growth': None},
        'plain': {'forward MiB': 1},
    },
}


def write(path, **changes):
    mmengine.dump([{**ENTRY, **changes}], path)
    return str(path)


def test_ratios_stand_next_to_their_targets(tmp_path, capsys):
    out = tmp_path / 'numbers.json'
    bench.main([write(tmp_path / 'list.yml'), '--rounds', '9', '--json', str(out)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| toys')]
    assert [line.split(' | ')[1:3] + line.split(' | ')[4:] for line in table] == [
        ['cp', 'forward', '1000000.0', 'yes |'],
        ['cp', 'forward growth', '', ' |'],
        ['cp', 'train', '>= 1e6', 'no |'],
        ['cp', 'train memory', '1.0', 'yes |'],
        ['plain', 'forward MiB', '1', 'yes |'],
    ]
    found = json.loads(out.read_text())['toys']
    assert list(found) == ['32x32', '64x64']
    assert len(found['32x32']['train']['cp']['cpu_ms']) == 2


def test_bad_input(tmp_path):
    path = write(tmp_path / 'list.yml', targets={'cp': {'speed': 1.0}})
    with pytest.raises(ValueError, match=r"targets must be of .*'forward'.*, got \['speed'\]"):
        bench.main([path])
    with pytest.raises(ValueError, match="must be part of a title in .*list.yml, got 'nothing'"):
        bench.main([path, '--only', 'nothing'])


def test_shipped_targets_are_those_of_rows():
    for entry in mmengine.load(ROOT / 'configs/benchmarks.yml'):
        bench.check(entry)
        args = compare_speed.parse_args(shlex.split(entry['run']))
        names = [name for name, *_ in compare_speed.wanted_rows(args)]
        names += [*args.checkout, *([f'{names[0]}, compiled'] if args.compile else [])]
        assert len(names) > 1 and set(entry['targets']) <= set(names), entry['title']
        for name in args.imports:
            importlib.import_module(name)
