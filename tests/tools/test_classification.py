"""Classifiers of mmpretrain in the tools: conversion, training on crops of drawn data, testing."""

import json

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from shipped import FOLDER, demo, load

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
CONFIG = demo('mmpretrain')


@pytest.fixture
def released(tmp_path, randomize):
    """A classifier, and its weights by the names of a release: no prefix of the backbone."""
    model = randomize(MODELS.build(load(CONFIG).model))
    names = {new: old for old, new in model.backbone.classifier_keys.items()}
    state = {}
    for key, value in model.state_dict().items():
        start = next((new for new in names if key.startswith(new)), 'backbone.')
        state[names.get(start, '') + key.removeprefix(start)] = value
    assert 'head.weight' in state
    torch.save(dict(model=state), tmp_path / 'released.pth')
    return model, tmp_path / 'released.pth'


def test_released_classifier_is_converted_with_its_head(commands, released, tmp_path, capsys):
    (model, old), new, tool = released, tmp_path / 'new.pth', commands.load('convert_weights')
    tool.main([str(old), str(new), '--config', str(CONFIG)])
    printed = capsys.readouterr().out
    assert '(classification)' in printed and 'missing: 0' in printed and 'load_from=' in printed
    fresh = MODELS.build(load(CONFIG).model)
    load_state_dict(fresh, torch.load(new, weights_only=True)['state_dict'], strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


def test_only_the_backbone_fits_other_classes(commands, released, tmp_path, capsys):
    config, tool = tmp_path / 'other.py', commands.load('convert_weights')
    config.write_text(f"_base_ = '{CONFIG}'\nmodel = dict(head=dict(num_classes=8))\n")
    arguments = [str(released[1]), '--dry-run', '--config', str(config)]
    with pytest.raises(ValueError, match=r'size mismatch for head\.fc\.weight.*--part backbone'):
        tool.main(arguments)
    tool.main([*arguments, '--part', 'backbone'])
    assert 'does not use all of head (2 keys)' in capsys.readouterr().err


QUICK = (
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=8',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
)


def test_trains_and_evaluates_on_crops(commands, few_images, tmp_path):
    """The score of the checkpoint is that of the run, and pictures of the predictions are drawn."""
    places = ('--data-root', few_images, '--work-dir', tmp_path / 'run')
    commands.call('train', CONFIG, *places, options=QUICK)
    lines = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    (score,) = (
        found['accuracy/top1'] for line in lines if 'accuracy/top1' in (found := json.loads(line))
    )
    checkpoint, out = tmp_path / 'run/epoch_1.pth', tmp_path / 'score.json'
    places = ('--data-root', few_images, '--work-dir', tmp_path / 'test')
    pictures = ('--show-dir', tmp_path / 'pictures', '--interval', 1)
    commands.call('test', CONFIG, checkpoint, *places, *pictures, '--out', out, options=QUICK)
    assert json.loads(out.read_text())['accuracy/top1'] == score
    crops = [*few_images.glob('crops/val/*/*.png')]
    assert len([*(tmp_path / 'pictures').glob('*.png')]) == len(crops) > 0
    commands.call('test', CONFIG, checkpoint, *places, '--out', tmp_path / 'all.pkl', options=QUICK)
    assert (tmp_path / 'all.pkl').is_file()


@pytest.mark.parametrize(
    ('places', 'options', 'message'),
    [
        ([], (), r"train_dataloader\.dataset\.data_prefix must exist, got '.*crops/train'"),
        (None, ('model.head.num_classes=8',), r'model\.head\.num_classes must be .* got 8 for 7'),
    ],
)
def test_what_does_not_fit_is_refused(places, options, message, commands, few_images, tmp_path):
    places = ['--data-root', few_images] if places is None else places
    with pytest.raises(ValueError, match=message):
        commands.call('train', CONFIG, *places, '--work-dir', tmp_path, options=options)


def test_missing_imagenet_is_refused(commands, tmp_path):
    config = next(FOLDER.rglob('*_in1k.py'))
    with pytest.raises(ValueError, match=r'dataset\.data_root must exist, got .*--data-root DIR'):
        commands.call('train', config, '--work-dir', tmp_path)
