import importlib.util
import json
import sys
from pathlib import Path

import cv2
import fixed_positions  # noqa: F401, registered
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


MMSEG = """
default_scope = 'mmseg'
model = dict(
    data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=16),
    backbone={backbone},
    decode_head=dict(ignore_index=9))
steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(48, 40), keep_ratio=True),
    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_dataloader = val_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root={root!r},
    metainfo=dict(classes=('a', 'b')), img_suffix='.png', pipeline=steps,
    data_prefix=dict(img_path='images', seg_map_path='labels')))
"""
MMDET = """
default_scope = 'mmdet'
model = dict(data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=16),
    backbone={backbone})
steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(48, 40), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_shape', 'ori_shape'))]
test_dataloader = val_dataloader = dict(dataset=dict(type='CocoDataset', data_root={root!r},
    metainfo=dict(classes=('a', 'b')), ann_file='coco.json', data_prefix=dict(img='images/'),
    pipeline=steps))
"""


@pytest.fixture
def dataset(tmp_path):
    """Three images of 96x80, each with a square of class 0 and one of class 1, in both formats."""
    annotations = []
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for n in range(3):
        labels = np.full((80, 96), 9, np.uint8)
        labels[:32, :32], labels[40:72, 48:80] = 0, 1
        cv2.imwrite(str(tmp_path / f'labels/{n}.png'), labels)
        image = np.random.default_rng(n).integers(0, 256, (80, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'images/{n}.png'), image)
        for k, (x, y) in enumerate([(0, 0), (48, 40)]):
            corners = [x, y, x + 32, y, x + 32, y + 32, x, y + 32]
            one = dict(image_id=n, category_id=k, bbox=[x, y, 32, 32], area=1024, iscrowd=0)
            annotations.append(one | dict(id=len(annotations), segmentation=[corners]))
    images = [dict(id=n, file_name=f'{n}.png', width=96, height=80) for n in range(3)]
    categories = [dict(id=k, name=name) for k, name in enumerate('ab')]

    def write(host, masks=True, backbone=BACKBONE):
        found = [{k: v for k, v in a.items() if masks or k != 'segmentation'} for a in annotations]
        coco = dict(images=images, annotations=found, categories=categories)
        (tmp_path / 'coco.json').write_text(json.dumps(coco))
        text = dict(mmdet=MMDET, mmseg=MMSEG)[host]
        (tmp_path / f'{host}.py').write_text(text.format(backbone=backbone, root=str(tmp_path)))
        return tmp_path / f'{host}.py'

    return write


@pytest.mark.parametrize('host', ['mmdet', 'mmseg'])
def test_prefer(main, dataset, tmp_path, capsys, host):
    """Objects of 16 x 16 pixels in images of 48 x 40, which are padded to 48 x 48."""
    pytest.importorskip(host)
    main('prefer', dataset(host), '--images', 2, '--out-dir', tmp_path / 'a')
    assert names(tmp_path / 'a') == ['prefer.json', 'prefer.png']
    for one in json.loads((tmp_path / 'a/prefer.json').read_text()):
        assert one['objects'] == 4
        want = [256 / 1920, 0, 256 / 1920, 1408 / 1920]
        np.testing.assert_allclose(one['area'], want, atol=1e-6)
        np.testing.assert_allclose(np.sum(one['attention'], 1), 1)
    assert 'even attention' in capsys.readouterr().out


def test_prefer_needs_masks(main, dataset, write, tmp_path):
    pytest.importorskip('mmdet')
    with pytest.raises(ValueError, match="must have masks, got image 0 without 'mask'"):
        main('prefer', dataset('mmdet', masks=False), '--out-dir', tmp_path / 'a')
    with pytest.raises(ValueError, match='must have masks: .* got one of mmengine'):
        main('prefer', write(), '--out-dir', tmp_path / 'a')
    with pytest.raises(ValueError, match='must define train_dataloader'):
        main('prefer', dataset('mmdet'), '--split', 'train', '--out-dir', tmp_path / 'a')
    with pytest.raises(ValueError, match='the layer must be one of'):
        main('prefer', dataset('mmdet'), '--layers', 9, '--out-dir', tmp_path / 'a')
    assert not (tmp_path / 'a').exists()


def test_retrieve(main, write, dataset, tmp_path, capsys):
    dataset('mmdet')
    (tmp_path / 'images/broken.png').write_text('no picture')
    arguments = ('retrieve', write(), '--random-weights', tmp_path / 'images', '--layer', 1)
    main(*arguments, '--head', 0, '--mode', 1, '--top', 2, '--out-dir', tmp_path / 'a')
    shown, warned = capsys.readouterr()
    assert 'broken.png' in warned
    scores = [float(line.split('\t')[0]) for line in shown.splitlines()]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert names(tmp_path / 'a') == ['00.png', '01.png', 'retrieve.json']
    for wrong, message in (((2, 0), r'head must be in \[0, 2\)'), ((0, 8), r'modes must be in')):
        with pytest.raises(ValueError, match=message):
            out = ('--head', wrong[0], '--mode', wrong[1], '--out-dir', tmp_path / 'b')
            main(*arguments, *out)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='pictures that can be read, got none'):
        empty = ('--random-weights', tmp_path / 'empty', '--layer', 1, '--head', 0, '--mode', 0)
        main('retrieve', write(), *empty, '--out-dir', tmp_path / 'b')
    assert not (tmp_path / 'b').exists()


def test_figures_of_the_paper(main, write, photo, tmp_path, capsys):
    main('vit', write(), '--images', photo, '--out-dir', tmp_path / 'a')
    assert names(tmp_path / 'a') == ['distances.png', 'filters.png', 'positions.png']
    assert 'blocks.1.attn: mean attention distance' in capsys.readouterr().out
    with pytest.raises(ValueError, match='must have something to draw'):
        resnet = dict(type='TimmFeatures', model='resnet18')
        main('vit', write(resnet), '--out-dir', tmp_path / 'b')
    assert 'no filters and no positions' in capsys.readouterr().err


def test_analyze_with_an_image_and_rotary_positions(main, write, photo, tmp_path, capsys):
    out = ('--image', photo, '--out-dir', tmp_path / 'a')
    main('analyze', write(BACKBONE | dict(rope='eva02')), *out)
    assert 'offsets.png' in names(tmp_path / 'a')
    head, first = capsys.readouterr().out.splitlines()[:2]
    assert 'folded  key bias' in head and ' - ' in first + ' '
    (one, _) = json.loads((tmp_path / 'a/query_key.json').read_text())['layers']
    assert len(one['cos_avg_folded']) == 2 and one['key_bias_share'] == []


@pytest.mark.parametrize('command', ['analyze', 'modes', 'prefer', 'retrieve', 'vit'])
def test_images_of_another_size(main, write, dataset, photo, tmp_path, command):
    fixed = dict(type='FixedPositions')
    config, size = write(fixed), '48x64'
    if command == 'prefer':
        config, size = dataset('mmdet', backbone=fixed), '48x48'
    one = ('--random-weights', photo, '--layer', 0)
    arguments = dict(
        analyze=('--image', photo),
        modes=one,
        prefer=(),
        retrieve=(*one, '--head', 0, '--mode', 0),
        vit=('--images', photo),
    )
    message = f'must take inputs of {size} pixels, .* got AssertionError: .. patches'
    with pytest.raises(ValueError, match=message):
        main(command, config, *arguments[command], '--out-dir', tmp_path / 'a')
    assert not (tmp_path / 'a').exists()
