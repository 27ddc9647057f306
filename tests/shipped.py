"""The configs that the repository ships, found by glob; MMTOKEN_CONFIGS=substring narrows them."""

import copy
import os
import re
import sys
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from rooms import BACKBONES
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / 'configs'
CONFIGS = sorted(
    path
    for path in FOLDER.rglob('*.py')
    if '_base_' not in path.relative_to(FOLDER).parts
    and os.environ.get('MMTOKEN_CONFIGS', '') in str(path.relative_to(FOLDER))
)
# of each host, the demo config
DEMOS = dict(mmpose='td-hm_*', mmdet='mask-rcnn_*', mmseg='*head_*', mmpretrain='*_demo-crops*')
# a host that a config inherits from, or a file of ours
BASES = re.compile(r"'(?:(\w+)::[^']+|(\.[^']*\.py))'")


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(''))


def demo(host: str) -> Path:
    return next((FOLDER / 'demo').glob(f'{DEMOS[host]}.py'))


@cache
def missing_host(path: Path) -> str | None:
    """The host that a config inherits from, if it is not installed: then it cannot be read."""
    for host, base in BASES.findall(path.read_text(encoding='utf-8').partition('_base_')[2]):
        found = host if host and not find_spec(host) else base and missing_host(path.parent / base)
        if found:
            return found
    return None


@cache
def parsed(path: Path) -> Config:
    """The config as it is, shared by all tests of a process: not to be changed."""
    if host := missing_host(path):
        pytest.skip(f'{host} is not installed')
    return Config.fromfile(path)


def load(path: Path) -> Config:
    """The config, to be changed at will, with its host as the default scope."""
    cfg = copy.deepcopy(parsed(path))
    pytest.importorskip(cfg.default_scope, reason=f'{cfg.default_scope} is not installed')
    init_default_scope(cfg.default_scope)
    return cfg


def is_ours(cfg: Config) -> bool:
    """Whether the backbone is one of ours; a host's own is there for comparison."""
    backbone = MODELS.get(cfg.model.backbone.type)
    return backbone is not None and backbone.__module__.startswith('mmtoken.')


def build_on_meta(cfg: Config) -> nn.Module:
    """Build the model of a loaded config without memory for its parameters."""
    # a host's backbone computes its drop path rates with a tensor and reads them
    on_cpu = partial(torch.linspace, device='cpu')
    with torch.device('meta'), mock.patch('torch.linspace', on_cpu):
        return MODELS.build(cfg.model)


@cache
def built(path: Path) -> nn.Module:
    """The model on the meta device, shared by all tests of a process: not to be changed."""
    return build_on_meta(load(path)).eval()


def build_optimizer(cfg: Config, model: nn.Module) -> OptimWrapper:
    """Build the optimizer of a config, which has a group for each parameter, in linear time.

    PyTorch compares every new group with all groups before it.
    """
    add = torch.optim.Optimizer.add_param_group

    def add_alone(self: torch.optim.Optimizer, group: dict) -> None:
        before, self.param_groups = self.param_groups, []
        add(self, group)
        before.extend(self.param_groups)
        self.param_groups = before

    with mock.patch('torch.optim.Optimizer.add_param_group', add_alone):
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    found = [id(p) for group in wrapper.optimizer.param_groups for p in group['params']]
    assert len(found) == len(set(found))
    return wrapper


def heads_on_maps(cfg: Config) -> list[str]:
    """The parts of the model that read the channels of the backbone; a neck may keep them."""
    neck = cfg.model.get('neck') or {}
    parts = (
        ('neck',) if 'in_channels' in neck else ('neck', 'decode_head', 'auxiliary_head', 'head')
    )
    return [part for part in parts if channels_key(cfg.model.get(part) or {})]


def channels_key(part: dict) -> str | None:
    """The key that says how many channels a neck or head reads."""
    return next((key for key in ('in_channels', 'embed_dim', 'embed_dims') if key in part), None)


def channels_read(part: dict, declared: tuple[int, ...]) -> int | list[int]:
    """Those of the declared channels of a backbone that a neck or head reads."""
    index = part.get('in_index')
    if isinstance(part[channels_key(part)], int):
        return declared[-1 if index is None else index]
    return [declared[i] for i in (range(len(declared)) if index is None else index)]


def check_channels(cfg: Config, model: nn.Module) -> None:
    """Whatever reads the maps of the backbone expects the channels that it declares."""
    if not is_ours(cfg):
        assert not hasattr(model.backbone, 'out_channels')
        return
    for name in heads_on_maps(cfg):
        part = cfg.model[name]
        given = part[channels_key(part)]
        given = given if isinstance(given, int) else list(given)
        assert given == channels_read(part, tuple(model.backbone.out_channels)), name


def smallest(backbone: dict) -> dict:
    """What makes a backbone small: its architecture, with the same hyper-parameters.

    All arguments of the smallest one, if it has no ``arch``. A host's backbone stays as it is.
    """
    alike = [one for one in BACKBONES if one['type'] == backbone['type']]
    if not alike or 'arch' not in alike[0]:
        return alike[0] if alike else {}
    arch = backbone['arch']
    if isinstance(arch, str):
        arch = sys.modules[MODELS.get(backbone['type']).__module__].ARCHS[arch]
    found = next(one['arch'] for one in alike if set(one['arch']) == set(arch))
    # where there is one depth, other arguments name blocks
    return dict(arch=dict(found, depth=arch['depth']) if 'depth' in arch else found)


def swap_in_the_smallest(cfg: Config) -> None:
    """Replace the architecture of the backbone, and tell what reads its maps."""
    changes = smallest(cfg.model.backbone)
    if not changes:
        return
    cfg.model.backbone.update(changes)
    declared = MODELS.build(cfg.model.backbone).out_channels
    for part in heads_on_maps(cfg):
        found = cfg.model[part]
        found[channels_key(found)] = channels_read(found, declared)
