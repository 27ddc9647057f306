import json
import re
from pathlib import Path

import compare_speed
import pytest
import torch
from _checkouts import ROOT, unpack
from mmengine.registry import MODELS
from torch import nn

FAST = ['--shape', '32', '32', '--rounds', '2', '--warmup', '0']
SHIFTED = ['--variant', 'shifted', 'model.backbone.shift=1.0']
SAME = ['--variant', 'same', 'model.backbone.with_cp=True']


def test_table_and_json(toy_config, tmp_path, capsys):
    out = tmp_path / 'new' / 'times.json'
    options = ['--part', 'neck', '--train', '--batch', '2', '--json', str(out)]
    compare_speed.main([toy_config, *FAST, *SAME, *options])
    text, progress = capsys.readouterr()
    for word in ('device:  cpu (', 'float32', 'threads:', 'torch:', 'commit:', '32 x 32'):
        assert word in text
    assert 'not compared' in text and re.search(r'train: .* 2/2 ', progress)
    same = r' +[\d.]+ +1\.000'
    row = rf'^toy +[\d.]+ +[\d.]+ - [\d.]+ +1\.000{same}{same} +0\.00 +[\d.]+ %$'
    assert len(re.findall(row, text, re.M)) == 2
    written = json.loads(out.read_text())['results']['32x32']
    assert list(written['forward']) == list(written['train']) == ['toy', 'same']
    assert len(written['train']['same']['times_ms']) == len(written['train']['same']['cpu_ms']) == 2
    # 16 patches: the stem, the assignment, the neck; two images
    assert written['forward']['toy']['macs'] == 2 * 16 * (3 * 64 * 8 + 8 * 5 + 5 * 7)
    # recomputation saves memory
    peaks = {name: found['peak_bytes'] for name, found in written['train'].items()}
    assert 0 < peaks['same'] < peaks['toy']


def test_sizes_are_fitted_and_drawn(toy_config, tmp_path, capsys):
    plot = tmp_path / 'new' / 'growth.png'
    sizes = ['--shape', '64', '64', '--shape', '64', '32', '--plot', str(plot)]
    compare_speed.main([toy_config, *FAST, *SAME, '--part', 'backbone', *sizes])
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith('forward, eval, ')] == [
        f'forward, eval, {hw}' for hw in ('32 x 32', '64 x 64', '64 x 32')
    ] + re.findall(r'^forward, eval, \w+: CPU time ~ pixels\^-?[\d.]+$', text, re.M)
    assert 'same: CPU time ~ pixels^' in text
    assert plot.read_bytes().startswith(b'\x89PNG')


def test_backbones_without_a_config(capsys):
    toys = ['--backbone', 'plain', 'ToyBackbone', '--backbone', 'cp', 'ToyBackbone', 'with_cp=True']
    compare_speed.main([*FAST, *toys, '--part', 'backbone'])
    assert re.search(r'^plain .*\ncp ', capsys.readouterr().out, re.M)


def other_checkout(folder, shift):
    """A checkout whose package registers a toy of the same name."""
    package = folder / 'projects' / 'mmtoken'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text(
        'from mmengine.registry import MODELS\nfrom torch import nn\n\n\n'
        '@MODELS.register_module()\nclass OldAndNew(nn.Conv2d):\n'
        '    def forward(self, x):\n'
        f'        return super().forward(x) + {shift}\n'
    )
    return ['--checkout', str(folder)]


@MODELS.register_module()
class OldAndNew(nn.Conv2d):
    pass


OLD_AND_NEW = ['--backbone', 'here', 'OldAndNew']
OLD_AND_NEW += ['in_channels=3', 'out_channels=4', 'kernel_size=8', 'stride=8']


def test_another_checkout_is_a_row(tmp_path, capsys):
    same = other_checkout(tmp_path / 'old', 0)
    compare_speed.main([*FAST, *OLD_AND_NEW, *same, '--part', 'backbone', '--train'])
    text = capsys.readouterr().out
    assert 'with its weights: old 0\n' in text and len(re.findall(r'^old  ', text, re.M)) == 2
    with pytest.raises(ValueError, match=r"a folder or a commit .*, got '.*nowhere'; git says"):
        compare_speed.main([*FAST, *OLD_AND_NEW, '--checkout', str(tmp_path / 'nowhere')])
    with pytest.raises(ValueError, match='needs a folder with projects/mmtoken, got '):
        compare_speed.main([*FAST, *OLD_AND_NEW, '--checkout', str(tmp_path)])


@pytest.mark.skipif(not (ROOT / '.git').exists(), reason='there are no commits')
def test_a_commit_is_unpacked():
    with unpack('HEAD') as folder:
        assert (Path(folder) / 'projects/mmtoken/__init__.py').is_file()
    assert not Path(folder).exists()


@pytest.mark.slow  # a process for each
def test_another_checkout_must_run_and_compute_the_same(tmp_path, capsys):
    broken = other_checkout(tmp_path / 'broken', 0.5)
    with pytest.raises(ValueError, match=r"outputs of 'broken' must be within .* got 0\.5"):
        compare_speed.main([*FAST, *OLD_AND_NEW, *broken, '--part', 'backbone'])
    assert 'median' not in capsys.readouterr().out
    (tmp_path / 'broken' / 'projects' / 'mmtoken' / '__init__.py').write_text('')
    with pytest.raises(ValueError, match='must run, got KeyError: .*OldAndNew is not in the'):
        compare_speed.main([*FAST, *OLD_AND_NEW, *broken, '--part', 'backbone'])


@pytest.mark.slow
def test_compiled_row(capsys):
    compare_speed.main([*FAST, *OLD_AND_NEW, '--part', 'backbone', '--train', '--compile'])
    assert re.search(r'with its weights: here, compiled [\d.e-]+$', capsys.readouterr().out, re.M)


def test_parity_is_shown_or_nothing_is_timed(toy_config, capsys):
    compare_speed.main([toy_config, *FAST, *SAME, '--part', 'neck', '--check-parity', '0'])
    assert 'with its weights: same 0' in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"no speed-up without parity: outputs of 'shifted' .* 1e-05"
    ):
        compare_speed.main(
            [toy_config, *FAST, *SHIFTED, '--part', 'neck', '--check-parity', '1e-5']
        )
    assert 'median' not in capsys.readouterr().out


def test_parity_needs_shared_weights(toy_config):
    wider = ['--variant', 'wider', 'model.neck.out_channels=16']
    with pytest.raises(ValueError, match="'wider' does not take those of 'toy': .*size mismatch"):
        compare_speed.main([toy_config, *FAST, *wider, '--part', 'neck', '--check-parity', '1'])


def test_weights_are_the_same_in_every_run(toy_config):
    args = compare_speed.parse_args([toy_config, *FAST, *SAME, '--part', 'backbone'])
    one, two = (row.weights() for row in compare_speed.build_rows(args).values())
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    'options, message',
    [
        ([], r"needs two or more models, got \['toy'\]; .*--variant"),
        ([*SAME, *SAME], "needs its own name, got 'same' twice"),
        (['--variant', 'bare'], r'NAME KEY=VALUE ..., got \[\] after NAME'),
        (['--variant', 'x', 'oops'], r"NAME KEY=VALUE ..., got \['oops'\]"),
        (['--backbone', 'x', 'arch=tiny'], r"NAME TYPE KEY=VALUE ..., got \['arch=tiny'\]"),
        ([*SAME, '--shape', '16', '32'], 'at least 29 pixels .* got 16x32'),
    ],
)
def test_bad_input(toy_config, options, message):
    with pytest.raises(ValueError, match=message):
        compare_speed.main([toy_config, *FAST, '--part', 'backbone', *options])


@pytest.mark.parametrize(
    'option, least',
    [('--rounds 0', 1), ('--warmup -1', 0), ('--shape 32 0', 1)],
)
def test_numbers_that_are_too_small(toy_config, option, least, capsys):
    with pytest.raises(SystemExit):
        compare_speed.main([toy_config, *FAST, *SAME, *option.split()])
    name, *_, number = option.split()
    message = f'error: argument {name}: must be at least {least}, got {number}'
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_gpu_that_is_not_there(toy_config):
    with pytest.raises(ValueError, match='--device cuda needs a GPU, got none; use --device cpu'):
        compare_speed.main([toy_config, *FAST, *SAME, '--device', 'cuda'])
