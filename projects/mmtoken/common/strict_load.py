"""Load released weights strictly: a difference is declared, or it is an error.

The hosts load ``init_cfg`` weights non-strictly, which turns a wrong file into a silently
random model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .checks import check_config
from .conventions import Convention, Release, convert_keys, find_release
from .weights import read_state_dict

State = dict[str, Tensor]  # tensors by name
OPTIONS = ('prefix', 'reinitialize', 'ignore')  # of init_cfg, next to type and checkpoint


@dataclass(frozen=True)
class LoadReport:
    """Outcome of loading a checkpoint, one tuple of keys per outcome.

    Args:
        loaded: Taken from the file.
        converted: Taken from the file under the name that another release gives it.
        resized: Taken from the file after a declared change of shape.
        reinitialized: Declared to keep their initial value.
        ignored: In the file, declared to be left out, or of a stage that is not built.
        missing: In the model, not in the file, undeclared.
        unexpected: In the file, not in the model, undeclared.
        mismatched: ``'key: difference'`` in shape or type, or a value that is not finite.
    """

    loaded: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        outcomes = ((name, getattr(self, name)) for name in self.__dataclass_fields__)
        return ', '.join(f'{len(keys)} {name}' for name, keys in outcomes if keys) or '0 loaded'

    def errors(self, most: int = 8) -> str:
        """One line per undeclared outcome with its first ``most`` keys; empty if there is none."""
        lines = []
        for outcome in ('missing', 'unexpected', 'mismatched'):
            keys = getattr(self, outcome)
            if keys:
                more = f' ... and {len(keys) - most} more' if len(keys) > most else ''
                lines.append(f'  {outcome}: ' + ', '.join(keys[:most]) + more)
        return '\n'.join(lines)


def matches_any(key: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches a key at its start."""
    return any(re.match(pattern, key) for pattern in patterns)


def check_patterns(
    name: str, patterns: str | Sequence[str], keys: Collection[str], place: str
) -> tuple[str, ...]:
    """Return the patterns as a tuple; raise unless each matches one of ``keys``."""
    patterns = tuple(patterns) if isinstance(patterns, (list, tuple)) else (patterns,)
    for pattern in patterns:
        try:
            found = any(re.match(pattern, key) for key in keys)
        except (re.error, TypeError) as error:
            raise ValueError(
                f'{name} must be regular expressions, got {pattern!r}: {error}'
            ) from None
        if not found:
            raise ValueError(
                f'each pattern of {name} must match a key {place}, got {pattern!r}; correct or '
                'remove it'
            )
    return patterns


def value_difference(value: Tensor, own: Tensor) -> str:
    """Reason why ``value`` cannot be copied into ``own`` without loss; empty if it can."""
    if value.shape != own.shape:
        return f'{tuple(value.shape)} -> {tuple(own.shape)}'
    kinds = [(x.is_meta, x.layout, x.is_complex(), x.is_floating_point()) for x in (value, own)]
    if kinds[0] != kinds[1]:
        names = (f'{x.layout} {x.dtype} on {x.device.type}' for x in (value, own))
        return ' -> '.join(names).replace('torch.', '')
    cast = value.to(own.dtype)
    if not cast.isfinite().all():
        return f'NaN or infinite values in {own.dtype}'
    rounds = own.is_floating_point() or own.is_complex()
    exact = rounds or torch.equal(cast.to(value.dtype), value)
    return '' if exact else f'{value.dtype} -> {own.dtype}'


def _prefix_hint(own: Iterable[str], given: Iterable[str]) -> str:
    """Say so if the keys of a file would fit without their first word."""
    words = {key.partition('.')[0] for key in given if key.partition('.')[2] in own}
    return '' if len(words) != 1 else f"Its keys start with '{words.pop()}.': give that as prefix."


def _prepare(
    model: nn.Module, state: State
) -> tuple[State, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the tensors by the model's names; the names converted, resized and dropped."""
    renamed, converted, left_out = state, (), ()
    if hasattr(model, 'convert_state_dict'):
        renamed, converted, left_out = model.convert_state_dict(state)
    state, resized = renamed, ()
    if hasattr(model, 'prepare_state_dict'):
        state, resized = model.prepare_state_dict(renamed)
    dropped = tuple(key for key in renamed if key not in state)
    return state, converted, tuple(resized), (*left_out, *dropped)


def load_state_dict_strict(
    model: nn.Module,
    state: State,
    *,
    source: str = 'the state dict',
    reinitialize: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
) -> LoadReport:
    """Copy tensors into ``model``; raise unless every difference was declared.

    A model may define ``convert_state_dict(state) -> (state, converted, left_out)``, which turns
    other releases into ours; ``prepare_state_dict(state) ->
    (state, resized)``, which drops and resizes known tensors; ``checkpoint_ignore``, patterns of
    keys that released files have and the model does not need (a classification head);
    ``reinitialized_keys(state)``, keys that cannot be loaded because of an argument that the user
    gave (a number of clusters); and ``mismatch_hint(state)``, a sentence for the error message.

    Args:
        model: The module to load into.
        state: Its tensors by name.
        source: Their origin, for messages.
        reinitialize: Regular expression or several (matched from the start of a key) of model
            keys that keep their initial value, whether the file has them or not.
        ignore: Regular expression or several of keys to leave out, which only the file has.

    Returns:
        The report, which is also logged.

    Raises:
        ValueError: If keys are missing, unexpected or mismatched without being declared, a
            declared pattern matches nothing, or nothing is left to load.
    """
    try:
        state, converted, resized, dropped = _prepare(model, state)
    except ValueError as error:
        raise ValueError(f'{source} does not fit {type(model).__name__}: {error}') from None
    own = model.state_dict()  # a model may take the shape of a tensor from the file
    foreign = [key for key in (*state, *dropped) if key not in own]
    reinitialize = check_patterns('reinitialize', reinitialize, own, 'of the model')
    ignore = check_patterns('ignore', ignore, foreign, 'that only the file has')
    ignore += tuple(getattr(model, 'checkpoint_ignore', ()))
    overridden = getattr(model, 'reinitialized_keys', lambda _state: ())(state)
    fresh = [key for key in own if key in overridden or matches_any(key, reinitialize)]
    ignored = [key for key in foreign if key not in state or matches_any(key, ignore)]
    given = {k: v for k, v in state.items() if k not in ignored and k not in fresh}
    wanted = [key for key in own if key not in fresh]
    differences = {key: value_difference(given[key], own[key]) for key in wanted if key in given}
    fits = [key for key, difference in differences.items() if not difference]
    report = LoadReport(
        loaded=tuple(key for key in fits if key not in (*converted, *resized)),
        converted=tuple(key for key in fits if key in converted and key not in resized),
        resized=tuple(key for key in fits if key in resized),
        reinitialized=tuple(fresh),
        ignored=tuple(ignored),
        missing=tuple(key for key in wanted if key not in given),
        unexpected=tuple(key for key in given if key not in own),
        mismatched=tuple(f'{key}: {text}' for key, text in differences.items() if text),
    )
    if errors := report.errors():
        hint = _prefix_hint(own, state) or getattr(model, 'mismatch_hint', lambda _: '')(state)
        hint = f'{hint} ' if hint else ''
        raise ValueError(
            f'{source} does not fit {type(model).__name__} ({len(fits)} of {len(own)} keys fit):\n'
            f'{errors}\n{hint}Nothing was loaded. Use the checkpoint of this architecture, or '
            "declare the differences: init_cfg=dict(type='Pretrained', checkpoint=..., prefix=..., "
            "reinitialize=('regex',), ignore=('regex',))"
        )
    if own and not fits:
        raise ValueError(
            f'reinitialize must leave keys to load, got {reinitialize}, which match all of '
            f'{type(model).__name__}; narrow them or drop init_cfg'
        )
    with torch.no_grad():
        for key in fits:
            own[key].copy_(given[key])
    kept = f'; initial values kept: {", ".join(fresh)}' if fresh else ''
    print_log(f'{type(model).__name__} from {source}: {report}{kept}', logger='current')
    return report


def check_init_cfg(init_cfg: object) -> None:
    """Raise unless ``init_cfg`` is None, the config of an initialiser, or a list of them."""
    check_config('init_cfg', init_cfg, may_be_list=True)
    for cfg in _list_of(init_cfg):
        _initializer(cfg)


def _list_of(init_cfg: dict | Sequence[dict] | None) -> list[dict]:
    return list(init_cfg) if isinstance(init_cfg, (list, tuple)) else [init_cfg] * bool(init_cfg)


def _initializer(cfg: dict) -> type:
    """The class that a config of an initialiser names."""
    kind = cfg['type']
    found = WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(found, type):
        known = sorted(WEIGHT_INITIALIZERS.module_dict)
        raise ValueError(f'the type of init_cfg must be one of {known}, got {kind!r}')
    return found


class StrictInitModule(BaseModule):
    """A registered module whose ``init_cfg=dict(type='Pretrained', ...)`` loads strictly.

    The constructor sets all initial values, so ``init_weights``, which a Runner calls before it
    trains, never overwrites loaded weights. ``load_state_dict`` converts and prepares keys as well.
    """

    conventions: tuple[Convention, ...] = ()
    releases: tuple[Release, ...] = ()

    @classmethod
    def recognise(cls, state: State) -> str:
        """Say which release of this model a file is.

        Args:
            state: Tensors of the file, without the prefix of a larger model.

        Returns:
            Its name, or an empty string if it is none.
        """
        return find_release(state, cls.releases)

    def _load_from_state_dict(self, state_dict: State, prefix: str, *args: Any) -> None:
        """Convert the keys of this module within a larger state dict, in place."""
        own = [key for key in state_dict if key.startswith(prefix)]
        state, *_ = _prepare(self, {key.removeprefix(prefix): state_dict.pop(key) for key in own})
        state_dict.update({prefix + key: value for key, value in state.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def convert_state_dict(self, state: State) -> tuple[State, tuple[str, ...], tuple[str, ...]]:
        """Turn the tensors of another release into ours, by ``conventions``.

        Args:
            state: Tensors by the names of any release, without prefix.

        Returns:
            The tensors by this module's names, which of those were converted, and the names in
            the file of those that are left out.
        """
        return *convert_keys(state, self.conventions), ()

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop or resize known tensors.

        Args:
            state: Tensors by this module's names, without prefix.

        Returns:
            The tensors to load, and which of them were resized.
        """
        return state, ()

    def read_weights(self, path: str | Path, prefix: str | None) -> State:
        """Read the tensors of a file; a subclass may convert their values."""
        return read_state_dict(path, prefix)

    def init_weights(self) -> None:
        """Initialise as mmengine does, then load the ``Pretrained`` weights of ``init_cfg``."""
        own, pretrained, others = self.init_cfg, [], []
        for cfg in _list_of(own):
            (pretrained if _initializer(cfg) is PretrainedInit else others).append(cfg)
        if self.is_init or not pretrained:
            super().init_weights()
            return
        if len(pretrained) > 1:
            raise ValueError(f"init_cfg must have one entry of type 'Pretrained', got {own}")
        cfg = {k: v for k, v in pretrained[0].items() if k not in ('type', 'map_location')}
        if not cfg.get('checkpoint') or set(cfg) - {*OPTIONS, 'checkpoint'}:
            raise ValueError(
                f"init_cfg of type 'Pretrained' needs a checkpoint and takes {OPTIONS}, got {cfg}"
            )
        path, prefix = cfg.pop('checkpoint'), cfg.pop('prefix', None)
        state = self.read_weights(path, prefix)
        self.init_cfg = others
        super().init_weights()
        self.init_cfg, self.is_init = own, False
        load_state_dict_strict(self, state, source=str(path), **cfg)
        self.is_init = True
