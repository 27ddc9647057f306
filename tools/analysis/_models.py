"""What the instruments share: options of the command line, the config, and a model or its parts."""

import argparse
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # _cli lives beside train.py
import _cli
import mmtoken  # registers our models
from _cli import UsageError, make_parser, refused_keys

__all__ = ['UsageError', 'make_parser']  # from _cli, for the scripts here
# their errors say it all: a small image, a wrong file
run = partial(_cli.run, errors=(FileNotFoundError, ValueError))


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, and a file for the numbers."""
    add = parser.add_argument
    add('--shape', type=at_least(1), nargs=2, required=True, metavar=('H', 'W'), help='in pixels')
    add('--part', choices=['backbone', 'neck', 'model'], default='model', help='(model)')
    add('--json', type=Path, metavar='FILE', help='write all numbers as well')


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from ``least`` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f'must be at least {least}, got {text}')
        return int(text)

    return number


def read_config(path: str, options: dict[str, Any]) -> Config:
    """Read the config of a model with a backbone and apply ``--cfg-options``."""
    cfg = _cli.read_config(path, options)
    if 'backbone' not in cfg.get('model', {}):
        found = sorted(cfg.get('model', {})) or 'no model'
        raise UsageError(f'the config must define model.backbone, got {path!r} with {found}')
    return cfg


def build(cfg: Config, registry: Registry, nodes: list[dict[str, Any]]) -> list[Any]:
    """Build nodes of a config."""
    try:
        with refused_keys():
            return [registry.build(node) for node in nodes]
    except (ImportError, KeyError) as error:
        raise UsageError(
            f'configs must be built of registered classes, got {error}; install the host '
            f'{cfg.get("default_scope")!r}, or take a smaller --part where there is one'
        ) from error


def build_part(cfg: Config, part: str) -> nn.Module:
    """Build ``'backbone'``, backbone and ``'neck'``, or the whole ``'model'``; random weights.

    All take images ``(B, C, H, W)``. Backbone and neck of this suite need no host to be installed.
    """
    names = ['backbone', 'neck'] if part == 'neck' and cfg.model.get('neck') else ['backbone']
    nodes = [cfg.model[name] for name in names]
    ours = all(isinstance(c, dict) and c.get('type') in MODELS.module_dict for c in nodes)
    if part == 'model' or not ours:
        init_default_scope(cfg.get('default_scope') or 'mmengine')
    if part == 'model':
        return take_images(*build(cfg, MODELS, [cfg.model]))
    return nn.Sequential(OrderedDict(zip(names, build(cfg, MODELS, nodes))))


def take_images(model: nn.Module) -> nn.Module:
    """Let a host's model be called with images alone; it returns the raw outputs of its head."""
    forward = model.forward

    def forward_images(images: Tensor) -> Any:
        sides = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        about = dict.fromkeys(sides, tuple(images.shape[2:]))
        about.update(scale_factor=(1.0, 1.0), flip=False)
        samples = [BaseDataElement(metainfo=about) for _ in range(len(images))]
        return forward(images, samples, mode='tensor')

    model.forward = forward_images
    return model


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution."""
    convs = (m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)


def environment() -> dict[str, str]:
    """What a number depends on: the versions of PyTorch and of this suite."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    here = Path(mmtoken.__file__).parent
    found = subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()
    return {'torch': torch.__version__, 'commit': found or 'unknown (no git checkout)'}
