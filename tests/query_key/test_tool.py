import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis'
ARCH = dict(embed_dims=16, depth=2, num_heads=2, hidden_dim=16)
BACKBONE = dict(type='PlainViT', arch=ARCH, patch_size=8, img_size=32)


@pytest.fixture(scope='module')
def main():
    """The tool has the name of the room, so it is loaded by its path."""
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location('query_key_tool', TOOLS / 'query_key.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return lambda *arguments: tool.main([str(one) for one in arguments])


@pytest.fixture
def write(tmp_path):
    def write(backbone=BACKBONE, name='config.py'):
        (tmp_path / name).write_text(f'model = dict(backbone={backbone})')
        return tmp_path / name

    return write


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / 'photo.png'), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return tmp_path / 'photo.png'


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_analyze_and_compare(main, write, tmp_path, capsys):
    model = MODELS.build(BACKBONE)
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'weights.pth')
    main('analyze', write(), '--out-dir', tmp_path / 'a')
    assert 'random weights' in capsys.readouterr().err
    main('analyze', write(), tmp_path / 'weights.pth', '--out-dir', tmp_path / 'b')
    shown, warned = capsys.readouterr()
    assert [line.split()[0] for line in shown.splitlines()[-3:]] == [
        'layer',
        'blocks.0.attn',
        'blocks.1.attn',
    ]
    assert 'random weights' not in warned
    files = ['curve.png', 'histogram.png', 'query_key.csv', 'query_key.json', 'spectra.png']
    assert names(tmp_path / 'a') == names(tmp_path / 'b') == files
    main('compare', tmp_path / 'a', tmp_path / 'b', '--out-dir', tmp_path / 'c')
    assert names(tmp_path / 'c') == ['compare.png']
    with pytest.raises(ValueError, match='must be different names, one per report'):
        main('compare', tmp_path / 'a', '--labels', 'x', 'y', '--out-dir', tmp_path / 'd')
    with pytest.raises(ValueError, match='must be new or empty'):
        main('compare', tmp_path / 'a', '--out-dir', tmp_path / 'c')


def test_modes(main, write, photo, tmp_path, capsys):
    arguments = ('modes', write(), '--random-weights', photo)
    main(*arguments, '--layer', 1, '--out-dir', tmp_path / 'a')
    assert names(tmp_path / 'a') == ['photo_modes.png']
    chosen = ('--layer', 'blocks.0.attn', '--head', 1, '--mode', 2, 5)
    main(*arguments, *chosen, '--out-dir', tmp_path / 'b')
    small, large = (cv2.imread(str(tmp_path / n / 'photo_modes.png')) for n in 'ba')
    assert small.size < large.size
    assert capsys.readouterr().out.strip().endswith('photo_modes.png')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('--layer', 7), 'the layer must be one of 0: blocks.0.attn, 1: blocks.1.attn; got .7.'),
        (('--layer', 0, '--head', 2), r'head must be in \[0, 2\)'),
        (('--layer', 0, '--head', 0, '--mode', 8), r'modes must be in \[0, 8\)'),
        (('--layer', 0, '--mode', 1), 'of one head'),
    ],
)
def test_what_does_not_exist(main, write, photo, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        main('modes', write(), '--random-weights', photo, *arguments, '--out-dir', tmp_path / 'a')
    assert not (tmp_path / 'a').exists()


def test_wrong_models(main, write, tmp_path):
    toy = dict(type='TimmFeatures', model='resnet18')
    with pytest.raises(ValueError, match='must have attention layers'):
        main('analyze', write(toy), '--out-dir', tmp_path / 'a')
    other = MODELS.build(dict(BACKBONE, arch=dict(ARCH, depth=1)))
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='does not fit'):
        main('analyze', write(), tmp_path / 'other.pth', '--out-dir', tmp_path / 'a')
    with pytest.raises(ValueError, match='got no image'):
        main('modes', write(), 'weights.pth', '--layer', 0, '--out-dir', tmp_path / 'a')
    assert not (tmp_path / 'a').exists()
