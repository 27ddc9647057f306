"""Load released weights strictly: every difference is declared, or it is an error.

The hosts load ``init_cfg`` weights non-strictly, which turns a wrong file into a silently
random model. Here the report lists what happened and anything undeclared raises.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

# Weights of an exponential moving average come last: asking for them is a choice.
CONTAINERS = ('state_dict', 'model')


@dataclass(frozen=True)
class LoadReport:
    """What became of each key; a tuple of keys per fate.

    Args:
        loaded: Taken from the file.
        resized: Taken from the file after a declared change of shape.
        reinitialized: Declared to keep their initial value.
        ignored: In the file, declared to be left out.
        missing: In the model, not in the file, undeclared.
        unexpected: In the file, not in the model, undeclared.
        mismatched: ``'key: file shape -> model shape'``, undeclared.
    """

    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        fates = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return ', '.join(f'{len(keys)} {name}' for name, keys in fates)

    def details(self, most: int = 8) -> str:
        """Lines naming the keys of every undeclared fate."""
        lines = []
        for fate in ('missing', 'unexpected', 'mismatched'):
            keys = getattr(self, fate)
            if keys:
                more = f' ... and {len(keys) - most} more' if len(keys) > most else ''
                lines.append(f'  {fate}: ' + ', '.join(keys[:most]) + more)
        return '\n'.join(lines)


def safe_classes() -> list:
    """Harmless globals that mmengine and the authors' scripts put beside the weights.

    A history buffer pickles its own methods by name; the safe unpickler may look them up with
    ``getattr`` and still never calls what it gets.
    """
    # numpy keeps these two in a private module whose name depends on its version
    reconstruct = (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0])
    dtypes = {type(np.dtype(code)) for code in ('?', 'u1', 'i4', 'i8', 'f4', 'f8', 'U1')}
    return [
        argparse.Namespace,
        HistoryBuffer,
        getattr,
        slice,
        np.ndarray,
        np.dtype,
        *reconstruct,
        *dtypes,
    ]


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint file or URL with ``weights_only=True``.

    Args:
        path: File or URL.

    Returns:
        What the file holds: the tensors by name, or a container around them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, or holds more than weights.
    """
    if str(path).startswith(('http://', 'https://')):
        return torch.hub.load_state_dict_from_url(
            str(path), map_location='cpu', weights_only=True, progress=True
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'the checkpoint must be an existing file, got {str(path)!r}; check the path or '
            'download the file first'
        )
    # for good: torch's context manager would also take away what others had allowed before
    torch.serialization.add_safe_globals(safe_classes())
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        size = path.stat().st_size
        told = re.sub(r'\x1b\[\d*m', '', str(error))  # torch prints in bold
        pickled = re.search(r'GLOBAL (\S+)', told)
        what = f'a pickled {pickled[1]}' if pickled else textwrap.shorten(told, 120)
        why = f'{type(error).__name__}: {what}'
        raise ValueError(
            f'the checkpoint {str(path)!r} ({size} bytes) is no readable weights file, got '
            f'"{why}"; it may be truncated (download or copy it again) or '
            'hold pickled objects (re-save only its state_dict)'
        ) from error


def read_state_dict(path: str | Path, prefix: str = '') -> dict[str, Tensor]:
    """The named tensors of a checkpoint, out of its container.

    Unpacks ``{'state_dict': ...}`` and ``{'model': ...}``, strips ``module.`` of DataParallel,
    and keeps what starts with ``prefix``, stripped of it.

    Args:
        path: File or URL.
        prefix: For example ``'backbone.'`` to take the backbone out of a pose estimator.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, holds no tensors, or no key has the prefix.
    """
    state = read_checkpoint(path)
    for container in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(container), dict):
            state = state[container]
            break
    tensors = {}
    if isinstance(state, dict):
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = list(state)[:5] if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f'a checkpoint must hold named tensors (plain, or under one of {CONTAINERS}), got '
            f'{keys} in {str(path)!r}; pass a file of weights'
        )
    tensors = {key.removeprefix('module.'): value for key, value in tensors.items()}
    if prefix:
        found = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        if not found:
            heads = sorted({key.split('.')[0] + '.' for key in tensors})
            raise ValueError(
                f'no key of {str(path)!r} starts with prefix={prefix!r}; its keys start with '
                f'{heads[:8]}; correct prefix in init_cfg'
            )
        tensors = found
    return tensors


def _as_tuple(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """One pattern, or several: the letters of a string are none."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(re.match(pattern, key) for pattern in patterns)


def _prefix_hint(own: Iterable[str], given: Iterable[str]) -> str:
    """Say so where the keys of a file would fit without the word that they start with."""
    words = {key.partition('.')[0] for key in given if key.partition('.')[2] in own}
    return '' if len(words) != 1 else f"Its keys start with '{words.pop()}.': give that as prefix."


def load_state_dict_strict(
    model: nn.Module,
    state: dict[str, Tensor],
    *,
    source: str = 'the state dict',
    reinitialize: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
) -> LoadReport:
    """Copy tensors into ``model``; raise unless every difference was declared.

    A model may define ``prepare_state_dict(state) -> (state, resized)``, which renames and
    resizes what it knows, ``checkpoint_ignore``, patterns of keys that released files carry
    and it has no use for (a classification head), ``reinitialized_keys(state)``, keys that
    cannot be loaded because of an argument that the user gave (a number of clusters), and
    ``mismatch_hint(state)``, a sentence on what the keys of a wrong file tell.

    Args:
        model: The module to load into.
        state: Its tensors by name.
        source: Where they come from, for messages.
        reinitialize: Regular expression or several (matched from the start of a key) of model
            keys that keep their initial value, whether the file has them or not.
        ignore: Regular expression or several of keys in the file to leave out.

    Returns:
        The report; it is logged too.

    Raises:
        ValueError: Undeclared missing, unexpected or mismatched keys, all named.
    """
    reinitialize = _as_tuple(reinitialize)
    ignore = (*_as_tuple(ignore), *getattr(model, 'checkpoint_ignore', ()))
    resized: tuple[str, ...] = ()
    if hasattr(model, 'prepare_state_dict'):
        state, resized = model.prepare_state_dict(state)
    own = model.state_dict()
    overridden = getattr(model, 'reinitialized_keys', lambda _state: ())(state)
    fresh = [key for key in own if key in overridden or _matches(key, reinitialize)]
    ignored = [key for key in state if key not in own and _matches(key, ignore)]
    given = {k: v for k, v in state.items() if k not in ignored and k not in fresh}
    wanted = [key for key in own if key not in fresh]
    fits = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    report = LoadReport(
        loaded=tuple(key for key in fits if key not in resized),
        resized=tuple(resized),
        reinitialized=tuple(fresh),
        ignored=tuple(ignored),
        missing=tuple(key for key in wanted if key not in given),
        unexpected=tuple(key for key in given if key not in own),
        mismatched=tuple(
            f'{key}: {tuple(given[key].shape)} -> {tuple(own[key].shape)}'
            for key in wanted
            if key in given and key not in fits
        ),
    )
    if report.missing or report.unexpected or report.mismatched:
        hint = _prefix_hint(own, state) or getattr(model, 'mismatch_hint', lambda _: '')(state)
        counts = str(report).replace(' loaded', ' would fit', 1)
        raise ValueError(
            f'{source} does not fit {type(model).__name__} ({counts}):\n{report.details()}\n'
            f'{hint and hint + " "}Nothing was loaded. Use the checkpoint of this architecture, or '
            "declare the differences: init_cfg=dict(type='Pretrained', checkpoint=..., prefix=..., "
            "reinitialize=('regex',), ignore=('regex',))"
        )
    with torch.no_grad():
        for key, value in fits.items():
            own[key].copy_(value)
    kept = f'; initial values kept: {", ".join(fresh)}' if fresh else ''
    print_log(f'{type(model).__name__} from {source}: {report}{kept}', logger='current')
    return report


def load_checkpoint_strict(
    model: nn.Module,
    path: str | Path,
    *,
    prefix: str = '',
    reinitialize: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
) -> LoadReport:
    """:func:`read_state_dict`, then :func:`load_state_dict_strict`."""
    return load_state_dict_strict(
        model,
        read_state_dict(path, prefix),
        source=str(path),
        reinitialize=reinitialize,
        ignore=ignore,
    )


class StrictInitModule(BaseModule):
    """A registered module whose ``init_cfg=dict(type='Pretrained', ...)`` loads strictly.

    Initial values are set by the constructor, so ``init_weights``, which a Runner calls before
    it trains, never undoes what was loaded by hand. A subclass may define
    ``prepare_state_dict``; ``load_state_dict`` goes through it as well.
    """

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Rename and drop keys of this module within a larger state dict, in place."""
        own = [key for key in state_dict if key.startswith(prefix)]
        bare = {key.removeprefix(prefix): state_dict.pop(key) for key in own}
        prepared, _ = self.prepare_state_dict(bare)
        state_dict.update({prefix + key: value for key, value in prepared.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def prepare_state_dict(
        self, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Rename or resize known tensors of other releases.

        Args:
            state: Tensors by name, without prefix.

        Returns:
            The tensors by this module's names, and which of them were resized.
        """
        return state, ()

    def init_weights(self) -> None:
        """Load the ``Pretrained`` weights of ``init_cfg``; other kinds are mmengine's."""
        cfgs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        kinds = [cfg.get('type') for cfg in cfgs if cfg]
        if 'Pretrained' not in kinds:
            super().init_weights()
            return
        if len(cfgs) > 1:
            raise ValueError(
                f"init_cfg of type 'Pretrained' must stand alone, got {kinds}; the constructor "
                'sets all other initial values'
            )
        cfg = {key: value for key, value in cfgs[0].items() if key not in ('type', 'map_location')}
        if 'checkpoint' not in cfg:
            raise ValueError(
                f"init_cfg of type 'Pretrained' needs a checkpoint, got {sorted(cfg)}; add "
                'checkpoint=PATH'
            )
        known = ('checkpoint', 'prefix', 'reinitialize', 'ignore')
        unknown = sorted(set(cfg) - set(known))
        if unknown:
            raise ValueError(f'init_cfg knows {known}, got {unknown}; remove or correct them')
        load_checkpoint_strict(self, cfg.pop('checkpoint'), **cfg)
        self._is_init = True
