"""Find misspelt keys of a config: every dict with a type is held against the type's arguments."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache

import mmcv.ops
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

# taken out of a dict before the rest of it is passed on
TAKEN = {'type', '_scope_', 'requires_grad', 'priority', 'convert_to_iter_based'}
TAKEN_FROM_OPTIM_WRAPPER = {'constructor', 'paramwise_cfg'}
LOADER_KEYS = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch'}
LOOPS = dict(train='EpochBasedTrainLoop', val='ValLoop', test='TestLoop')


@cache
def parameters(target: Callable) -> frozenset[str] | None:
    """Arguments of a class or function, and of the bases it passes them on to; None: any."""
    names = set()
    signatures = [target]
    if inspect.isclass(target):
        signatures = [base.__init__ for base in target.__mro__ if '__init__' in vars(base)][:-1]
    for signature in signatures:
        found = inspect.signature(signature).parameters.values()
        names |= {one.name for one in found}
        if not any(one.kind is one.VAR_KEYWORD for one in found):
            return frozenset(names - {'self'})
    return None


@cache
def registered(scope: str, kind: str) -> list[Callable]:
    """Everything of this name in the registries of a host and of mmengine."""
    registries = vars(importlib.import_module(f'{scope}.registry')).values()
    found = [one.get(kind) for one in registries if isinstance(one, Registry)]
    # RoI layers and NMS are looked up among the operators
    return [one for one in (*found, getattr(mmcv.ops, kind, None)) if one is not None]


def check(where: str, keys: set[str], allowed: frozenset[str] | set[str]) -> None:
    """Raise ValueError unless all keys are allowed."""
    if not keys <= allowed:
        raise ValueError(f'{where} takes {sorted(allowed)}, got {sorted(keys - allowed)}')


def check_typed(where: str, node: dict, scope: str) -> None:
    """Raise ValueError unless something of this type takes the keys."""
    found = [parameters(target) for target in registered(scope, node['type'])]
    if not found:
        raise ValueError(f'{where}.type must be registered, got {node["type"]!r}')
    taken = TAKEN | TAKEN_FROM_OPTIM_WRAPPER if where == 'optim_wrapper' else TAKEN
    keys = set(node) - taken
    if not any(allowed is None or keys <= allowed for allowed in found):
        check(where, keys, found[0])


def typed(node: object, where: str) -> Iterator[tuple[str, dict]]:
    """Every dict with a type, and its place."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield where, node
        for key, value in node.items():
            yield from typed(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from typed(value, f'{where}[{index}]')


def check_keys(cfg: Config) -> None:
    """Raise ValueError for an unregistered type or a key that its type does not take."""
    for field in {*inspect.signature(Runner.__init__).parameters} & set(cfg):
        for where, node in typed(cfg._cfg_dict[field], field):
            check_typed(where, node, cfg.default_scope)
    for split, loop in LOOPS.items():
        check(f'{split}_dataloader', set(cfg[f'{split}_dataloader']), LOADER_KEYS)
        given = {'type': loop, **cfg[f'{split}_cfg']}
        if not given.pop('by_epoch', True):
            given['type'] = 'IterBasedTrainLoop'
        check_typed(f'{split}_cfg', given, cfg.default_scope)
