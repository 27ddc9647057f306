"""Every config under ``configs/``: no key is misspelt, and the whole model fits together.

Models are built on the meta device, without memory or arithmetic. ``test_training.py`` trains the
smallest model of each kind.
"""

import ast

import numpy as np
import pytest
import torch
from _cli import TOOL_FIELDS, fields_of_mmengine
from config_keys import check_keys
from mmengine.registry import EVALUATOR, PARAM_SCHEDULERS
from samples import HOSTS, SPLITS, OneSample, pose_sample, shrink
from shipped import (
    CONFIGS,
    FOLDER,
    build_on_meta,
    build_optimizer,
    built,
    check_channels,
    demo,
    is_ours,
    load,
    name,
)

every_config = pytest.mark.parametrize('path', CONFIGS, ids=name)


def maps_for_heads(cfg, model) -> list:
    """What the neck makes of maps like the backbone declares them, and the image size of these."""
    backbone, neck = model.backbone, getattr(model, 'neck', None)
    if not is_ours(cfg):
        maps = backbone(torch.zeros(1, 3, 64, 96, device='meta'))
        return list(neck(tuple(maps)) if neck else maps)
    sizes = [backbone.out_size(i, (64, 96)) for i in range(len(backbone.out_channels))]
    maps = [
        torch.zeros(1, channels, *hw, device='meta')
        for channels, hw in zip(backbone.out_channels, sizes)
    ]
    kind = getattr(backbone, 'out_type', 'maps')
    if kind in ('class', 'mean'):
        return [torch.zeros(1, channels, device='meta') for channels in backbone.out_channels]
    if kind == 'tokens':  # its neck takes no maps
        return [torch.zeros(1, neck.out_channels, *hw, device='meta') for hw in sizes]
    return list(neck(tuple(maps)) if neck else maps)


def check_heads(cfg, model, metainfo: dict) -> None:
    """Every head takes the maps, and predicts as many classes or joints as the data set has."""
    maps = maps_for_heads(cfg, model)
    if cfg.default_scope == 'mmpose':
        assert model.head(maps).shape[:2] == (1, metainfo['num_keypoints'])
        return
    if cfg.default_scope == 'mmpretrain':
        assert model.head(maps).shape == (1, len(metainfo['classes']))
        return
    if cfg.default_scope == 'mmseg':
        for head in (model.decode_head, getattr(model, 'auxiliary_head', None)):
            assert head is None or head(maps).shape[:2] == (1, len(metainfo['classes']))
        return
    model.rpn_head(maps)
    roi = model.roi_head
    for part in ('bbox', 'mask'):
        extractors, heads = getattr(roi, f'{part}_roi_extractor'), getattr(roi, f'{part}_head')
        if not isinstance(heads, torch.nn.ModuleList):
            extractors, heads = [extractors], [heads]
        for extractor, head in zip(extractors, heads):
            assert {m.shape[1] for m in maps} == {extractor.out_channels}
            cut = torch.zeros(2, extractor.out_channels, *extractor.roi_layers[0].output_size)
            head(cut.to(maps[0].device))


def check_classes(node, metainfo: dict) -> None:
    """Every head predicts as many classes as the data set names."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            assert node['num_classes'] == len(metainfo['classes'])
        for value in node.values():
            check_classes(value, metainfo)
    elif isinstance(node, (list, tuple)):
        for value in node:
            check_classes(value, metainfo)


def evaluators(cfg, split: str) -> list[dict]:
    """Return the evaluators of a split without the annotation files, which are read at once."""
    found = cfg[f'{split}_evaluator']
    found = found if isinstance(found, list) else [found]
    return [dict(one, ann_file=None) if 'ann_file' in one else one for one in found]


def test_there_are_configs():
    assert CONFIGS, f'no config in {FOLDER} matches MMTOKEN_CONFIGS'


@every_config
def test_keys_exist(path):
    check_keys(load(path))


@every_config
def test_model_fits_together(path):
    """Backbone, neck and heads agree about channels, and the heads with the data set."""
    cfg, model = load(path), built(path)
    check_channels(cfg, model)
    for split in SPLITS:
        metainfo = OneSample(cfg[f'{split}_dataloader'].dataset, None, None).metainfo
        check_classes(cfg.model, metainfo)
    with torch.no_grad():
        check_heads(cfg, model, metainfo)
    optim_wrapper = build_optimizer(cfg, model)
    for scheduler in cfg.param_scheduler:
        PARAM_SCHEDULERS.build(
            {'optimizer': optim_wrapper, **scheduler, 'convert_to_iter_based': False}
        )


# pipelines and evaluators that several configs share are run once
ALREADY_RUN = set()


@every_config
def test_samples_pass_the_pipelines(path, tmp_path):
    cfg = load(path)
    np.random.seed(0)
    shrink(cfg)
    for split in SPLITS:
        dataset = cfg[f'{split}_dataloader'].dataset
        if repr(dataset) not in ALREADY_RUN:
            sample = OneSample(dataset, HOSTS[cfg.default_scope].sample, tmp_path)[0]
            assert sample['inputs'].shape[0] == 3 and sample['data_samples'] is not None
            ALREADY_RUN.add(repr(dataset))
    for split in ('val', 'test'):
        EVALUATOR.build(dict(type='Evaluator', metrics=evaluators(cfg, split)))


@every_config
def test_no_name_is_misspelt_or_left_unused(path):
    """A top-level name is a field that something reads, or a variable that the file uses."""
    tree = ast.parse(path.read_text())
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    defined = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert defined <= {'_base_', *TOOL_FIELDS, *fields_of_mmengine(), *used}


def plain(steps: list[dict]) -> list[dict]:
    """Drop the scope that mmengine notes beside the types of a host's config."""
    return [{key: value for key, value in step.items() if key != '_scope_'} for step in steps]


@every_config
def test_pipelines_reach_the_loaders(path):
    """Editing an inherited ``train_pipeline`` alone would change nothing."""
    cfg = load(path)
    # mmpose evaluates and tests with the one, the other hosts with the other
    named = [cfg[key] for key in ('val_pipeline', 'test_pipeline') if key in cfg]
    assert len(named) == 1 and 'train_pipeline' in cfg
    for split, pipeline in zip(SPLITS, (cfg.train_pipeline, *named, *named)):
        assert plain(cfg[f'{split}_dataloader'].dataset.pipeline) == plain(pipeline)


@every_config
def test_header_states_the_command(path):
    """Line 1 says model, data and schedule; a line below it is the command."""
    header = ast.get_docstring(ast.parse(path.read_text()))
    assert path.read_text().startswith('"""') and len(header.splitlines()[0]) > 40
    assert 'tools/train.py' in header


MISTAKES = dict(
    mmpose=[
        'model.backbon.arch=light',
        'model.backbone.archh=light',
        'model.neck.out_level=0',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_epoch=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
        'test_evaluator.annfile=x.json',
    ],
    mmdet=[
        'model.backbon.arch=small',
        'model.backbone.num_cluster=7',
        'model.neck.in_channel=3',
        'model.roi_head.mask_head.num_conv=2',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_epoch=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
        'test_evaluator.annfile=x.json',
    ],
    mmseg=[
        'model.backbon.arch=small',
        'model.backbone.num_cluster=7',
        'model.decode_head.num_clases=3',
        'model.decode_head.loss_cluster.los_weight=1',
        'model.data_preprocessor.sizes=64',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_iter=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
    ],
    mmpretrain=[
        'model.backbon.arch=small',
        'model.backbone.num_cluster=7',
        'model.head.num_clases=3',
        'model.head.loss.los_weight=1',
        'model.neck.dimm=2',
        'train_dataloader.batchsize=2',
        'train_dataloader.dataset.annfile=x.json',
        'train_cfg.max_epoch=1',
        'optim_wrapper.optimizer.learning_rate=1',
        'default_hooks.logger.intervall=1',
        'test_evaluator.topkk=1',
    ],
)


@pytest.mark.parametrize(
    'host, mistake', [(host, mistake) for host in MISTAKES for mistake in MISTAKES[host]]
)
def test_misspelt_keys_are_found(host, mistake):
    cfg = load(demo(host))
    key, value = mistake.split('=')
    cfg.merge_from_dict({key: value})
    with pytest.raises(ValueError, match=rf"got \['{key.split('.')[-1]}'\]|got \['backbon'\]"):
        check_keys(cfg)


def test_unknown_types_are_found():
    cfg = load(demo('mmdet'))
    cfg.model.neck.type = 'FPM'
    with pytest.raises(ValueError, match="model.neck.type must be registered, got 'FPM'"):
        check_keys(cfg)


def test_wrong_channels_and_classes_are_found():
    cfg = load(demo('mmseg'))
    metainfo = dict(classes=range(cfg.model.decode_head.num_classes))
    check_classes(cfg.model, metainfo)
    cfg.model.decode_head.num_classes += 1
    with pytest.raises(AssertionError):
        check_classes(cfg.model, metainfo)
    with pytest.raises(AssertionError):
        check_heads(cfg, build_on_meta(cfg).eval(), metainfo)
    cfg.model.decode_head.in_channels = [1, 2, 3, 4]
    with pytest.raises(AssertionError):
        check_channels(cfg, build_on_meta(cfg))


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'lsp' in path.name], ids=name)
def test_unlabelled_joints_weigh_nothing(path, tmp_path):
    """LSP-Extended has junk coordinates where its visibility is 0."""
    sample = OneSample(load(path).train_dataloader.dataset, pose_sample, tmp_path)[0]
    weights = sample['data_samples'].gt_instance_labels.keypoint_weights
    assert weights.shape == (1, 14)
    assert (weights == 0).sum() >= 1
