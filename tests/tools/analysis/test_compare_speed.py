import json
import re

import compare_speed
import pytest
import torch

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
    assert re.search(r'^toy +[\d.]+ +[\d.]+ - [\d.]+ +1\.000 +[\d.]+ +1\.000$', text, re.M)
    written = json.loads(out.read_text())
    assert list(written['forward']) == list(written['train']) == ['toy', 'same']
    assert len(written['train']['same']['times_ms']) == 2
    # recomputation saves memory
    peaks = {name: found['peak_bytes'] for name, found in written['train'].items()}
    assert 0 < peaks['same'] < peaks['toy']


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
    one, two = compare_speed.build_models(args).values()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


@pytest.mark.parametrize(
    'options, message',
    [
        ([], r'needs two or more models, got \[.*toy.py.\]; .*--variant'),
        ([*SAME, *SAME], "needs its own name, got 'same' twice"),
        (['--variant', 'bare'], r'NAME KEY=VALUE ..., got \[\] after NAME'),
        (['--variant', 'x', 'oops'], r"NAME KEY=VALUE ..., got \['oops'\]"),
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
