"""What the instruments share: options of the command line, the config, and a model or its parts."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import Registry
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # _cli lives beside train.py
import _cli
import mmtoken  # registers our models
from _cli import Options, check_output, make_parser, run
from _errors import UsageError, one_sentence
from _parts import build_nodes

__all__ = ['Options', 'UsageError', 'check_output', 'make_parser', 'run']  # for the scripts here


def add_measuring_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add what is measured, and a file for the numbers."""
    add = parser.add_argument
    often = dict(action='append') if several else {}
    side = at_least(1)
    add('--shape', type=side, nargs=2, required=True, metavar=('H', 'W'), help='in pixels', **often)
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


def build(registry: Registry, nodes: list[dict[str, Any]]) -> list[Any]:
    """Build nodes of a config."""
    with one_sentence():
        return [registry.build(node) for node in nodes]


def nodes_of(cfg: Config, part: str) -> dict[str, dict[str, Any]]:
    """Names and configs of ``'backbone'``, backbone and ``'neck'``, or the whole ``'model'``."""
    if part == 'model':
        return {'model': cfg.model}
    names = ['backbone', 'neck'] if part == 'neck' and cfg.model.get('neck') else ['backbone']
    return {name: cfg.model[name] for name in names}


def build_part(cfg: Config, part: str) -> nn.Module:
    """Build a part of a model, see :func:`nodes_of`, with random weights."""
    scope = cfg.get('default_scope') or 'mmengine'
    with one_sentence():
        return build_nodes(nodes_of(cfg, part), scope)


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: it says so, or those of its first convolution."""
    if hasattr(model.backbone, 'image_channels'):
        return model.backbone.image_channels
    convs = (m for m in model.backbone.modules() if isinstance(m, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)


def environment() -> dict[str, str]:
    """What a number depends on: the versions of PyTorch and of this suite."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    here = Path(mmtoken.__file__).parent
    found = subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()
    return {'torch': torch.__version__, 'commit': found or 'unknown (no git checkout)'}
