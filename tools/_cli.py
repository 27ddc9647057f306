"""Arguments and configs, shared by train.py, test.py and the tools of analysis."""

import argparse
import difflib
import inspect
import os
import os.path as osp
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _errors import UsageError, one_sentence
from mmengine.config import Config, DictAction
from mmengine.hub import get_config
from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner, Runner
from mmtoken.compat import prepare_hosts

HOSTS = ('mmdet', 'mmseg', 'mmpose', 'mmpretrain')
# top-level fields that a host or a tool reads; those of mmengine are found in its source
TOOL_FIELDS = {'runner_type', 'custom_imports', 'data_root', 'preprocess_cfg'}
TOOL_FIELDS |= {'tta_model', 'tta_pipeline'}


def warn(message: str) -> None:
    """Print one sentence that must not be lost among the lines of the log."""
    print(f'warning: {message}', file=sys.stderr, flush=True)


class Options(DictAction):
    """``KEY=VALUE ...``, refused in one sentence."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Parse the options."""
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError) as error:
            reason = f'must be KEY=VALUE ..., got {" ".join(values)} ({error})'
            raise argparse.ArgumentError(self, reason) from error


def check_output(option: str, path: str | Path | None, *, folder: bool = False) -> None:
    """Raise unless a file, or a folder, can be written there: now, not after hours of work."""
    if not path:
        return
    path = Path(path).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if existing.is_dir() != (folder or existing != path):
        found = 'folder' if existing.is_dir() else 'file'
        rule = f'{option} must name a {"folder" if folder else "file"}, got {str(path)!r}'
        raise UsageError(f'{rule}, but {str(existing)!r} is a {found}; choose another path')


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--cfg-options``."""
    parser = argparse.ArgumentParser(description=description)
    text = 'override config fields, e.g. train_dataloader.batch_size=8 or key="[(a,b),(c,d)]"; '
    text += 'data_root=DIR moves all paths below the data_root of the config'
    options = dict(nargs='+', action=Options, default={}, metavar='KEY=VALUE', help=text)
    parser.add_argument('--cfg-options', **options)
    return parser


def make_runner_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that training and testing have in common."""
    parser = make_parser(description)
    add = parser.add_argument
    add(
        'config',
        help='file, or mmtoken::FOLDER/NAME.py; its default_scope or its model picks the host',
    )
    add('--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)')
    add('--data-root', metavar='DIR', help='the same as --cfg-options data_root=DIR')
    add('--show', action='store_true', help='show predictions in a window')
    add('--show-dir', help='write pictures of the predictions into this folder')
    add('--interval', type=int, help='draw every n-th sample (batch in mmseg)')
    add('--wait-time', type=float, help='seconds that a window stays open')
    add('--may-differ', nargs='+', default=[], metavar='REGEX', help='weights that may differ')
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes the second spelling
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def read_config(path: str, options: dict[str, Any]) -> Config:
    """Read a config and apply ``--cfg-options``."""
    prepare_hosts()
    options = dict(options)
    data_root = options.pop('data_root', None)
    try:
        cfg = find_config(path)
        if not path.endswith('.py'):
            restore_tuples(cfg._cfg_dict)
        if data_root:
            move_data_root(cfg, data_root)
        check_options(cfg, options)
        cfg.merge_from_dict(options)
    except ImportError as error:
        rule = f'modules of a config must be importable, got "{error.__context__ or error}"'
        raise UsageError(f'{rule}; install them, or put their folder on PYTHONPATH') from error
    return cfg


def find_config(path: str) -> Config:
    """Read a config file, or the config that a package ships under ``package::folder/name.py``."""
    if osp.isfile(path):
        return Config.fromfile(path)
    package, is_name, _ = path.partition('::')
    try:
        if is_name and find_spec(package):  # mmengine would install a missing package
            return get_config(path)
    except (AssertionError, FileNotFoundError, ValueError) as error:
        rule = 'config must be a file, or PACKAGE::FOLDER/NAME.py shipped by a host or by mmtoken'
        close = ' or '.join(closest_configs(path))
        remedy = f'did you mean {close}?' if close else 'docs/zoo.md lists ours'
        raise UsageError(f'{rule}, got {path!r}; {remedy}') from error
    raise UsageError(
        f'config must be a file or PACKAGE::FOLDER/NAME.py of an installed package, got {path!r}; '
        'docs/zoo.md lists ours'
    )


def closest_configs(path: str) -> list[str]:
    """Return the shipped configs of a package with the names most like ``PACKAGE::NAME``."""
    package, _, name = path.partition('::')
    folder = Path(find_spec(package).origin or '').parent / '.mim/configs'
    found = {file.stem: file.relative_to(folder) for file in folder.glob('*/**/*.py')}
    close = difflib.get_close_matches(Path(name).stem, found, n=2)
    return [f'{package}::{found[stem].as_posix()}' for stem in close]


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of the command line and apply the arguments of :func:`make_runner_parser`."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    moved = {'data_root': args.data_root} if args.data_root else {}
    cfg = read_config(args.config, args.cfg_options | moved)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'./work_dirs/{Path(args.config).stem}'
    check_output('--work-dir', cfg.work_dir, folder=True)
    check_output('--show-dir', args.show_dir, folder=True)
    # mmengine's and mmpose's spelling outside the model, which --tta is going to wrap
    for field in ('data_preprocessor', 'preprocess_cfg'):
        if cfg.get(field) and cfg.get('model'):
            cfg.model.setdefault('data_preprocessor', cfg[field])
    draw_predictions(cfg, args)
    return cfg


def move_data_root(cfg: Config, new: str) -> None:
    """Move ``data_root`` and every other path of the config that lies below it.

    Datasets and evaluators hold copies of the root, which changing the variable would not reach.
    """
    old = cfg.get('data_root')
    if not old:
        rule = 'moving the data needs a config with a top-level data_root, got one without'
        raise UsageError(f'{rule}; set train_dataloader.dataset.data_root (val_, test_) instead')
    old = old.rstrip('/')

    def moved(node):
        if isinstance(node, dict):
            # ConfigDict would import the classes of a pure-Python config on the way
            for key, value in dict.items(node):
                dict.__setitem__(node, key, moved(value))
        elif isinstance(node, (list, tuple)):
            return type(node)(moved(value) for value in node)
        elif isinstance(node, str) and f'{node}/'.startswith(f'{old}/'):
            return osp.join(new, node[len(old) :].lstrip('/'))
        return node

    moved(cfg._cfg_dict)


def restore_tuples(node: object, in_pipeline: bool = False) -> object:
    """Turn lists of numbers in pipelines into tuples: JSON has none, and mmcv's sizes must be."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key != 'prob':  # a probability per direction is a list
                node[key] = restore_tuples(value, in_pipeline or key.endswith('pipeline'))
    elif isinstance(node, list):
        node = [restore_tuples(value, in_pipeline) for value in node]
        if in_pipeline and node and all(isinstance(value, (int, float)) for value in node):
            return tuple(node)
    return node


def fields_of_mmengine() -> set[str]:
    """Return the top-level fields of a config that the runners of mmengine read."""
    modules = map(inspect.getmodule, (Runner, FlexibleRunner))
    source = '\n'.join(map(inspect.getsource, modules))
    return set(re.findall(r"\bcfg(?:\.get\(|\[)\s*'(\w+)'", source))


def check_options(cfg: Config, options: dict) -> None:
    """Raise on an option for a top-level field that nothing reads: mmengine would add it."""
    known = fields_of_mmengine() | TOOL_FIELDS | set(cfg)
    for option in options:
        field = option.split('.')[0]
        if field not in known:
            close = ', '.join(difflib.get_close_matches(field, known, n=3) or sorted(cfg))
            rule = '--cfg-options must name a field of the config or of its runner'
            raise UsageError(f'{rule}, got {option!r}; did you mean {close}?')


def type_name(node: dict) -> str:
    """Return the bare class name of ``type``: a name, ``'host.Name'``, or the class itself."""
    kind = node.get('type', '')
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def find_host(cfg: Config) -> str:
    """Return the host of a config: its scope, or where the class of its model comes from."""
    scope = cfg.get('default_scope')
    if scope not in HOSTS:
        kind = (cfg.get('model') or {}).get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
        packages = [base.__module__.split('.')[0] for base in getattr(kind, '__mro__', ())]
        return next((package for package in packages if package in HOSTS), scope or 'mmengine')
    return scope


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the visualization hook, whose arguments differ between the hosts."""
    given = {k: v for k in ('interval', 'wait_time') if (v := getattr(args, k)) is not None}
    if not (args.show or args.show_dir):
        if given:
            raise UsageError('--interval and --wait-time belong to --show or --show-dir, got none')
        return
    if given.get('interval', 1) < 1:
        raise UsageError(f'--interval must be 1 or more, got {args.interval}')
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UsageError(
            '--show and --show-dir need default_hooks.visualization, got a config without it; add '
            'e.g. visualization=dict(type="DetVisualizationHook")'
        )
    # an absolute path, because the hosts put a relative one below work_dir/<timestamp>
    folder = osp.abspath(args.show_dir) if args.show_dir else None
    host = find_host(cfg)
    spelling = dict(draw=True, test_out_dir=folder)
    if host in ('mmpose', 'mmpretrain'):
        spelling = dict(enable=True, out_dir=folder)
    elif host == 'mmseg':
        spelling = dict(draw=True)
    hook.update(given, show=args.show, **spelling)
    # where mmseg writes its pictures, and all hosts those of validation
    if folder and (host == 'mmseg' or not hasattr(args, 'checkpoint')):
        if cfg.get('visualizer') is None:
            raise UsageError('--show-dir needs the field visualizer, got a config without it')
        cfg.visualizer.save_dir = folder


def run(main: Callable[[], None]) -> None:
    """Call ``main``; print errors of usage as one sentence, unless MMTOKEN_TRACEBACK is set."""
    try:
        with one_sentence():
            main()
    except UsageError as error:
        if os.environ.get('MMTOKEN_TRACEBACK'):
            raise
        sys.exit(f'error: {error}')
