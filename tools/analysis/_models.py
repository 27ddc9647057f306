"""What the instruments share: the config of the command line, and a model or a part of it."""

import argparse
import os.path as osp
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # _cli lives beside train.py
import mmtoken  # registers our models
from _cli import UsageError, check_options, run
from mmtoken.compat import make_host_configs_loadable

__all__ = ['UsageError', 'run']  # from _cli, for the scripts here
PARTS = ('backbone', 'neck', 'model')


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override config fields, e.g. model.backbone.arch=small',
    )


def parse_options(texts: list[str]) -> dict[str, Any]:
    """``['a.b=1', 'c=x']`` as ``--cfg-options`` reads them."""
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    bad = [text for text in texts if '=' not in text]
    if bad or not texts:
        raise UsageError(
            f'--variant must be NAME KEY=VALUE ..., got {" ".join(bad) or "a name alone"!r}; '
            'for example --variant local model.backbone.local_parts=4,2,1'
        )
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


def read_config(path: str, options: dict[str, Any]) -> Config:
    """Read a config and apply ``--cfg-options``."""
    make_host_configs_loadable()
    if not osp.isfile(path):
        raise UsageError(f'config must be a file, got {path!r}; the READMEs in configs/ list ours')
    cfg = Config.fromfile(path)
    check_options(cfg, options)
    cfg.merge_from_dict(options)
    if 'backbone' not in cfg.get('model', {}):
        raise UsageError(
            f'the config must define model.backbone, got {path!r} with '
            f'{sorted(cfg.get("model", {})) or "no model"}; use the config of a model'
        )
    return cfg


class Parts(nn.Module):
    """The backbone of a model, with its neck or without.

    Args:
        backbone: Takes images.
        neck: Takes what the backbone returns; optional.

    Shape:
        - images: ``(B, 3, H, W)``.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        if neck is not None:
            self.neck = neck

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.neck(features) if hasattr(self, 'neck') else features


class WholeModel(nn.Module):
    """A host's model with the plain call that tools need: images in, raw outputs of the head.

    Args:
        model: A detector, a segmentor or a pose estimator.

    Shape:
        - images: ``(B, 3, H, W)``, normalised.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # children by their own names, so that rows and weights are called as in the host
        for name, child in model.named_children():
            self.add_module(name, child)
        self._call = [model]  # in a list: not a child

    def train(self, mode: bool = True) -> 'WholeModel':
        """Set the mode of the host's model, children and all."""
        super().train(mode)
        self._call[0].train(mode)
        return self

    def forward(self, images: Tensor) -> Any:
        size = tuple(images.shape[2:])
        about = dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
            flip=False,
        )
        samples = [BaseDataElement(metainfo=about) for _ in range(len(images))]
        return self._call[0](images, samples, mode='tensor')


def build_part(cfg: Config, part: str) -> nn.Module:
    """Build ``'backbone'``, backbone and ``'neck'``, or the whole ``'model'``; random weights.

    Backbone and neck of this suite need no host to be installed.
    """
    wanted = [cfg.model.backbone]
    if part == 'neck' and cfg.model.get('neck'):
        wanted.append(cfg.model.neck)
    ours = all(isinstance(c, dict) and c.get('type') in MODELS.module_dict for c in wanted)
    if part == 'model' or not ours:
        init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        if part == 'model':
            return WholeModel(MODELS.build(cfg.model))
        return Parts(*(MODELS.build(c) for c in wanted))
    except (ImportError, KeyError) as error:
        hint = '' if part == 'backbone' else ', or look at a smaller --part'
        raise UsageError(
            f'model must be built of registered classes, got {error}; install the host '
            f'{cfg.get("default_scope")!r}{hint}'
        ) from error
    except ValueError as error:  # an argument of the model, whose message says it all
        raise UsageError(str(error)) from error


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution."""
    backbone = getattr(model, 'backbone', model)
    convs = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    return next((conv.in_channels for conv in convs), 3)


def check_side(shape: list[int] | tuple[int, ...]) -> None:
    """Raise unless both sides are positive."""
    if min(shape) < 1:
        raise UsageError(f'--shape must be two positive numbers H W, got {tuple(shape)}')


def commit() -> str:
    """The checkout's commit, with ``-dirty`` when files differ from it."""
    done = subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*'],
        cwd=Path(mmtoken.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or 'unknown (no git checkout)'


def environment() -> dict[str, str]:
    """Versions that a number depends on."""
    return {'torch': torch.__version__, 'commit': commit()}
