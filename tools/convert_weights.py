"""Convert released weights into a file that our configs load as it is.

python tools/convert_weights.py SRC DST --config CONFIG [--part backbone|model] [--dry-run] ...

SRC is a file of torch.save, a .safetensors file, or a .pkl file of detectron2, of any release that
the backbone of CONFIG knows. It is read without running code. What it holds is loaded strictly into
the backbone, or into the whole model. Heads and necks of mmdet 2.x, mmseg 0.x and mmpose 0.x get
their present names from the hosts themselves, a released classifier those of mmpretrain.

DST is a .pth or .safetensors file with all weights of that part. A backbone is for
init_cfg=dict(type='Pretrained', checkpoint=DST), a whole model for load_from and tools/test.py.
"""

import argparse
import os
import re
from collections import Counter, OrderedDict
from dataclasses import replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from textwrap import shorten

import torch
from _cli import make_parser, read_config, run, type_name, warn
from _errors import UsageError
from _one_step import initialize
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict
from mmtoken.common.backbone import Backbone
from mmtoken.common.strict_load import (
    LoadReport,
    State,
    StrictInitModule,
    check_patterns,
    load_state_dict_strict,
)
from mmtoken.common.weights import CONTAINERS, named_tensors, read_checkpoint
from torch import nn

SUFFIXES = ('.pth', '.safetensors')
PREFIX = 'backbone.'
# of models in mmpose 0.x, which mmpose 1.x renames as it loads them
OLD_HEADS = {'keypoint_head': 'head'}


class AsDict:
    """Makes a dict in place of a pickled object of any class, whose code is not run.

    Only an ``OrderedDict`` itself takes items with ``weights_only=True``.
    """

    def __new__(cls, *_unused: object) -> OrderedDict:
        return OrderedDict()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; raise unless DST can be written."""
    parser = make_parser('Convert released weights')
    add = parser.add_argument
    add('src', help='released file')
    add('dst', type=Path, nargs='?', help='FILE.pth or FILE.safetensors to write')
    add('--config', required=True, help='config whose model the weights are for')
    add('--part', choices=['backbone', 'model'], help='(model if SRC has its neck or head)')
    add('--dry-run', action='store_true', help='convert and report, write nothing')
    add('--overwrite', action='store_true', help='replace DST')
    text = 'class in the pickle that is read as a plain dict, e.g. yacs.config.CfgNode'
    add('--allow', nargs='+', default=[], metavar='MODULE.CLASS', help=text)
    text = 'keys of the model that keep their initial values, e.g. of a head for other classes'
    add('--reinitialize', nargs='+', default=[], metavar='REGEX', help=text)
    add('--ignore', nargs='+', default=[], metavar='REGEX', help='keys of SRC to leave out')
    args = parser.parse_args(argv)
    dst = args.dst
    if args.allow and 'tuple' not in str(signature(torch.serialization.add_safe_globals)).lower():
        rule = '--allow needs a torch that reads a class as another one'
        raise UsageError(f'{rule}, got {torch.__version__}; re-save only the state_dict of SRC')
    if dst is None and not args.dry_run:
        raise UsageError('DST must name the file to write, got none; add it, or pass --dry-run')
    if dst is None:
        return args
    if dst.suffix not in SUFFIXES:
        raise UsageError(f'DST must be a {" or ".join(SUFFIXES)} file, got {str(dst)!r}')
    if dst.suffix == '.safetensors' and find_spec('safetensors') is None:
        raise UsageError(f'{dst} needs safetensors, got none; pip install safetensors')
    if dst.exists() and (not args.overwrite or dst.resolve() == Path(args.src).resolve()):
        remedy = 'choose another name' if args.overwrite else 'pass --overwrite to replace it'
        raise UsageError(f'DST must be a new file, got {str(dst)!r}; {remedy}')
    if not dst.parent.is_dir():
        raise UsageError(f'DST must be in an existing folder, got {str(dst)!r}')
    return args


def read(path: str) -> tuple[State, dict | None]:
    """Return the tensors of a file and the versions of the modules that wrote them."""
    try:
        content = read_checkpoint(path)
        inner = next((content[k] for k in CONTAINERS if isinstance(content.get(k), dict)), content)
        versions = getattr(inner, '_metadata', None) or {}
        versions = {key.removeprefix('module').removeprefix('.'): v for key, v in versions.items()}
        return named_tensors(content, path), versions or None
    except (FileNotFoundError, ValueError) as error:
        pickled = re.search(r'holds a pickled ([\w.]+)', str(error))
        if not pickled or path.endswith('.pkl'):
            raise UsageError(str(error)) from error
        remedy = f'or pass --allow {pickled[1]}, which permits just this class, as a plain dict'
        raise UsageError(f'{error}, {remedy}') from error


def our_backbones() -> dict[str, type[Backbone]]:
    """Return our registered backbones by name."""
    known = sorted(MODELS.module_dict.items())
    return {k: v for k, v in known if isinstance(v, type) and issubclass(v, Backbone)}


def find_release(backbone: Backbone, state: State, source: str) -> str:
    """Return which release a file is; raise if it is one of another backbone."""
    kind = type(backbone)
    if own := kind.recognise(state):
        return own
    names = {name: other.recognise(state) for name, other in our_backbones().items()}
    others = ', '.join(f'{release}, for {name}' for name, release in names.items() if release)
    if others and (kind.releases or 'recognise' in vars(kind)):
        raise UsageError(
            f'the backbone of --config must fit the file, got {kind.__name__} and {source!r}, '
            f'which is {others}; use a config with that backbone'
        )
    return 'no release that the backbone knows by its keys'


def build_model(path: str, options: dict) -> nn.Module:
    """Build the model of a config; raise unless it has one of our backbones."""
    cfg = read_config(path, options)
    backbone = (cfg.get('model') or {}).get('backbone')
    if not isinstance(backbone, dict):
        raise UsageError(f'--config must have a model with a backbone, got {path!r} without')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = MODELS.build(cfg.model)
    if not isinstance(model.backbone, Backbone):
        rule = f'the backbone of --config must be one of {list(our_backbones())}'
        raise UsageError(f'{rule}, got {type_name(backbone)} in {path!r}')
    return model


def as_classifier(model: nn.Module, state: State) -> State:
    """Return a released classifier by the names of the model; anything else as it is."""
    names, renamed, head = model.backbone.classifier_keys, {}, []
    for key, value in state.items():
        start = next((start for start in names if key.startswith(start)), '')
        name = names[start] + key.removeprefix(start) if start else PREFIX + key
        head += [name] if start else []
        renamed[name] = value
    is_released = head and not any(key.startswith(PREFIX) for key in state)
    return renamed if is_released and model.state_dict().keys() >= {*head} else state


def is_whole(model: nn.Module, state: State) -> bool:
    """Whether a file has a backbone and other parts of a model."""
    own, modules = model.state_dict(), {key.partition('.')[0] for key in state}
    others = any(key in own for key in state if not key.startswith(PREFIX))
    others |= any(old in modules and hasattr(model, new) for old, new in OLD_HEADS.items())
    return PREFIX[:-1] in modules and others


def load_part(part: nn.Module, given: State, source: str, **declared: list[str]) -> LoadReport:
    """Load one of our modules strictly."""
    try:
        return load_state_dict_strict(part, given, source=source, **declared)
    except ValueError as error:
        text = ' '.join(str(error).partition('Nothing was loaded')[0].split())
        remedy = 'use the config of this architecture, or declare what differs with --ignore REGEX'
        raise UsageError(f'{text}; {remedy} and --reinitialize REGEX') from error


def with_initial_values(
    model: nn.Module, state: State, patterns: list[str]
) -> tuple[State, tuple[str, ...]]:
    """Put initial values of the model into a file where a pattern matches; return which.

    Patterns match names of the model and of the file, which may be older ones.
    """
    if not patterns:
        return state, ()
    try:
        keys = (*model.state_dict(), *state)
        check_patterns('--reinitialize', patterns, keys, 'of the model or of SRC')
    except ValueError as error:
        raise UsageError(str(error)) from None
    model.backbone.init_cfg = None
    initialize(model)
    wanted = re.compile('|'.join(f'(?:{pattern})' for pattern in patterns))
    new = {key: value for key, value in model.state_dict().items() if wanted.match(key)}
    return {k: v for k, v in state.items() if not wanted.match(k)} | new, tuple(new)


def load_whole(model: nn.Module, state: State, versions: dict | None, source: str) -> LoadReport:
    """Load a whole model strictly: our modules by their conventions, the rest by the hosts'."""
    parts: dict[str, list[str]] = {name: [] for name in LoadReport.__dataclass_fields__}
    complete, taken = OrderedDict(state), []
    for name, module in model.named_modules():
        start = f'{name}.'
        if not isinstance(module, StrictInitModule) or start.startswith(tuple(taken)):
            continue
        taken.append(start)
        inside = {k.removeprefix(start): complete.pop(k) for k in state if k.startswith(start)}
        report = load_part(module, inside, f'{name} of {source}')
        for outcome, keys in parts.items():
            keys += [start + key for key in getattr(report, outcome)]
        complete.update((start + key, value) for key, value in module.state_dict().items())
    complete._metadata = versions
    lines = []
    try:
        load_state_dict(model, complete, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    own = model.state_dict()
    lines += [f'{key}: NaN or infinite values' for key, v in own.items() if not v.isfinite().all()]
    if lines:
        raise UsageError(
            f'{source} must hold the model of --config, got {shorten("; ".join(lines), 1500)}; use '
            'the config of that model, leave layers of other classes at their initial values with '
            '--reinitialize REGEX, or take only the backbone with --part backbone'
        )
    for key in (key for key in own if not key.startswith(tuple(taken))):
        parts['loaded' if key in state else 'converted'].append(key)
    return LoadReport(**{outcome: tuple(keys) for outcome, keys in parts.items()})


def describe(report: LoadReport, most: int = 8) -> str:
    """Return one line per outcome, with its keys where they are few."""
    lines = []
    for outcome in report.__dataclass_fields__:
        keys = getattr(report, outcome)
        listed = f': {", ".join(keys)}' if 0 < len(keys) <= most and outcome != 'loaded' else ''
        lines.append(f'  {outcome}: {len(keys)}{listed}')
    return '\n'.join(lines)


def write(part: nn.Module, path: Path, meta: dict) -> None:
    """Write the weights of a loaded part; a file that is interrupted does not get the name."""
    state, partial = part.state_dict(), path.with_name(f'{path.name}.part')
    if path.suffix == '.pth':
        torch.save(dict(meta=meta, state_dict=state), partial)
    else:
        from safetensors.torch import save_file

        bare = {key: value.clone() for key, value in state.items()}
        load_state_dict(part, bare, strict=True)
        changed = [key for key, v in part.state_dict().items() if not torch.equal(v, bare[key])]
        if changed:
            raise UsageError(
                'a .safetensors file has no versions of modules, by which the host tells old '
                f'weights from new ones, got {changed[:8]}, which it would change; write a .pth'
            )
        save_file({key: value.contiguous() for key, value in bare.items()}, partial)
    os.replace(partial, path)


def main(argv: list[str] | None = None) -> None:
    """Read, convert, load, report and write."""
    args = parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')  # the report is printed below
    torch.serialization.add_safe_globals([(AsDict, name) for name in args.allow])
    state, versions = read(args.src)
    modules = Counter(key.partition('.')[0] for key in state)
    model = build_model(args.config, args.cfg_options)
    inner = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    release = find_release(model.backbone, inner or state, args.src)
    print(f'{args.src} is {release}; keys: {", ".join(f"{k} {n}" for k, n in modules.items())}')
    whole = as_classifier(model, state)
    if (args.part or ('model' if is_whole(model, whole) else 'backbone')) == 'model':
        if args.ignore:
            raise UsageError('--ignore is for --part backbone, got a model')
        part, use = model, f'load_from={str(args.dst)!r}, or with tools/test.py'
        whole, kept = with_initial_values(model, whole, args.reinitialize)
        report = replace(load_whole(model, whole, versions, args.src), reinitialized=kept)
    else:
        part = model.backbone
        use = f"init_cfg=dict(type='Pretrained', checkpoint={str(args.dst)!r}) of the backbone"
        given = part.read_weights(args.src, PREFIX[:-1] if inner else None)
        declared = dict(reinitialize=args.reinitialize, ignore=args.ignore)
        report = load_part(part, given, args.src, **declared)
        left_out = {k: n for k, n in modules.items() if inner and k != PREFIX[:-1]}
        left_out = Counter(left_out) + Counter(key.partition('.')[0] for key in report.ignored)
        if left_out:
            listed = ', '.join(f'{name} ({number} keys)' for name, number in left_out.items())
            warn(f'only the backbone is converted, which does not use all of {listed}')
    print(f'{type(part).__name__} of {args.config}:\n{describe(report)}')
    if not args.dry_run:
        write(part, args.dst, dict(source=Path(args.src).name, reinitialized=report.reinitialized))
        print(f'wrote {args.dst}; use it as {use}')


if __name__ == '__main__':
    run(main)
