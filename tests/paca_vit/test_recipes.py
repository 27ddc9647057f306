"""What the published recipes say about learning rates, weight decay and drop path, as built."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from shipped import build_optimizer, built, load
from torch import nn

FOLDER = Path(__file__).resolve().parents[2] / 'configs/paca_vit'
COCO = sorted(FOLDER.glob('*_1x_coco.py'))
PACAHEAD = sorted(FOLDER.glob('*_pacahead_*_ade20k-*.py'))
UPERNET = sorted(FOLDER.glob('*_upernet_*_ade20k-*.py'))
NORMS = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


def groups(cfg: Config, model: nn.Module) -> dict[str, dict]:
    """Of each parameter the group that the optimizer put it into."""
    optimizer = build_optimizer(cfg, model).optimizer
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    by_id = {id(p): group for group in optimizer.param_groups for p in group['params']}
    return {name: by_id[id(p)] for name, p in model.named_parameters()}


def names_of(model: nn.Module, kinds: tuple) -> set[str]:
    """Names of the parameters of the modules of these kinds."""
    return {
        f'{name}.{key}'
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        for key, _ in module.named_parameters(recurse=False)
    }


def check_decay(model: nn.Module, found: dict[str, dict], decay: float) -> None:
    norms = names_of(model, NORMS)
    assert norms
    for name, group in found.items():
        assert group['weight_decay'] == (0 if name in norms else decay), name


@pytest.mark.parametrize('path', COCO, ids=lambda path: path.stem)
def test_detectors(path):
    cfg, model = load(path), built(path)
    found = groups(cfg, model)
    assert {group['lr'] for group in found.values()} == {1e-4}
    check_decay(model, found, 0.05)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.train_cfg.max_epochs == 12
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (1e-3, 500, False)
    assert (list(steps.milestones), steps.gamma) == ([8, 11], 0.1)


@pytest.mark.parametrize('path', PACAHEAD, ids=lambda path: path.stem)
def test_segmentors_learn_ten_times_as_fast_where_they_start_anew(path):
    cfg, model = load(path), built(path)
    found = groups(cfg, model)
    backbone = model.backbone
    if cfg.model.backbone.arch.endswith('teacher'):
        anew = {f'paca_teacher.to_clusters{stage}' for stage in (1, 2, 3, 4)}
    else:
        last = 2 if backbone.clustering == 'mlp' else 4
        anew = {name for name, _ in backbone.named_modules() if name.endswith(f'clustering.{last}')}
    assert (
        len(anew)
        == {'stage': 3 if 0 in backbone.num_clusters else 4, 'block': 19}[
            cfg.model.backbone.get('share', 'stage')
        ]
    )
    for name, group in found.items():
        fast = name.startswith('decode_head.')
        fast = fast or name.removeprefix('backbone.').rsplit('.', 1)[0] in anew
        assert group['lr'] == pytest.approx(6e-4 if fast else 6e-5), name
    check_decay(model, found, 0.01)
    wide = cfg.model.backbone.arch.startswith('base')
    assert cfg.model.backbone.drop_path_rate == (0.5 if wide else 0.1)


@pytest.mark.parametrize('path', UPERNET, ids=lambda path: path.stem)
def test_upernet_has_one_learning_rate(path):
    cfg, model = load(path), built(path)
    found = groups(cfg, model)
    assert {group['lr'] for group in found.values()} == {6e-5}
    check_decay(model, found, 0.01)
    assert cfg.model.backbone.drop_path_rate == 0.1


@pytest.mark.parametrize('path', PACAHEAD + UPERNET, ids=lambda path: path.stem)
def test_ade20k_runs_160k_iterations_with_200_clusters(path):
    cfg = load(path)
    assert set(cfg.model.backbone.num_clusters) <= {0, 200}
    assert cfg.train_cfg.max_iters == 160000
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end) == (1e-6, 1500)
    assert (poly.begin, poly.end, poly.power, poly.eta_min) == (1500, 160000, 1.0, 0.0)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16


def test_published_name_rules_miss_what_the_roles_find():
    """configs/paca_vit/README.md says how to use them, and what they miss."""
    path = FOLDER / 'paca-vit-small-teacher_pacahead_8xb2-160k_ade20k-512x512.py'
    cfg, model = load(path), built(path)
    names = {'norm': dict(decay_mult=0.0)}
    names |= {name: dict(lr_mult=10.0) for name in ('head', 'clustering.4')}
    options = dict(constructor='DefaultOptimWrapperConstructor')
    options['paramwise_cfg'] = dict(_delete_=True, custom_keys=names)
    cfg.merge_from_dict(dict(optim_wrapper=options))
    found = groups(cfg, model)
    assert 'roles' not in cfg.optim_wrapper.paramwise_cfg
    assert found['decode_head.conv_seg.weight']['lr'] == pytest.approx(6e-4)
    assert found['backbone.norm1.weight']['weight_decay'] == 0
    assert found['backbone.paca_teacher.to_clusters1.weight']['lr'] == 6e-5
    batch_norms = names_of(model.backbone, (nn.modules.batchnorm._BatchNorm,))
    assert batch_norms
    assert all(found[f'backbone.{name}']['weight_decay'] == 0.01 for name in batch_norms)
