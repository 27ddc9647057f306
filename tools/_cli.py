"""What train.py and test.py share: arguments, the config they make, and its runner."""

import argparse
import difflib
import inspect
import os
import os.path as osp
import sys
from collections.abc import Callable

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmtoken.compat import prepare_hosts

# top-level fields that some host, runner or tool reads besides the arguments of the runner
KNOWN_FIELDS = {
    *inspect.signature(Runner.__init__).parameters,
    *('runner_type', 'strategy', 'compile', 'custom_imports', 'data_root', 'preprocess_cfg'),
    *('find_unused_parameters', 'model_wrapper_cfg', 'activation_checkpointing'),
    *('efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'fast_forward_on_resume'),
}


class UsageError(ValueError):
    """The command or its files are wrong; the message says what to do about it."""


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that training and testing have in common."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add('config', help='config file; its default_scope picks the host')
    add('--work-dir', help='folder for logs and checkpoints (./work_dirs/<config name>)')
    add('--data-root', metavar='DIR', help='the same as --cfg-options data_root=DIR')
    add(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override config fields, e.g. train_dataloader.batch_size=8 or key="[(a,b),(c,d)]"; '
        'data_root=DIR moves all paths below the data_root of the config',
    )
    add('--show', action='store_true', help='show predictions in a window')
    add('--show-dir', help='write pictures of the predictions into this folder')
    add('--interval', type=int, help='draw every n-th sample (batch in mmseg)')
    add('--wait-time', type=float, help='seconds that a window stays open')
    add(
        '--may-differ',
        nargs='+',
        default=[],
        metavar='REGEX',
        help='weights whose names start so may differ between checkpoint and model (head\\.)',
    )
    add('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes the second spelling
    add('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config of the command line and apply the arguments of :func:`make_parser`."""
    prepare_hosts()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise UsageError(
            f'config must be a file, got {args.config!r}; the READMEs in configs/ list ours'
        )
    cfg = Config.fromfile(args.config)
    options = dict(args.cfg_options)
    data_root = args.data_root or options.pop('data_root', None)
    if data_root:
        move_data_root(cfg, data_root)
    check_options(cfg, options)
    cfg.merge_from_dict(options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    return cfg


def move_data_root(cfg: Config, new: str) -> None:
    """Move ``data_root`` and every other path of the config that lies below it.

    A config is plain data by the time options are merged, so that setting its variable
    ``data_root`` alone would not reach the datasets and evaluators that were made from it.
    """
    old = cfg.get('data_root')
    if not old:
        raise UsageError(
            'moving the data needs a config with a top-level data_root, got one without; set '
            'train_dataloader.dataset.data_root (and val_, test_) with --cfg-options instead'
        )
    old = old.rstrip('/')

    def moved(node):
        if isinstance(node, dict):
            return {key: moved(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(moved(value) for value in node)
        if isinstance(node, str) and f'{node}/'.startswith(f'{old}/'):
            return osp.join(new, node[len(old) :].lstrip('/'))
        return node

    for key in cfg:
        cfg[key] = moved(cfg[key])


def check_options(cfg: Config, options: dict) -> None:
    """Raise on an option for a top-level field that nothing reads: mmengine would add it."""
    known = KNOWN_FIELDS | set(cfg)
    for option in options:
        field = option.split('.')[0]
        if field not in known:
            close = difflib.get_close_matches(field, known, n=3) or sorted(cfg)
            raise UsageError(
                f'--cfg-options must name a field of the config or of its runner, got {option!r}; '
                f'did you mean {", ".join(close)}?'
            )


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the visualization hook of the host; each host spells it in its own way."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError(
            '--show and --show-dir need default_hooks.visualization, got a config without it; '
            'add the host\'s hook, e.g. visualization=dict(type="DetVisualizationHook")'
        )
    # as the user typed it; the hosts would put a relative path below work_dir/<timestamp>
    folder = osp.abspath(args.show_dir) if args.show_dir else None
    hook.show = args.show
    if args.interval is not None:
        hook.interval = args.interval
    if args.wait_time is not None:
        hook.wait_time = args.wait_time
    if cfg.get('default_scope') == 'mmpose':
        hook.update(enable=True, out_dir=folder)
    elif cfg.get('default_scope') == 'mmseg':
        hook.draw = True
        cfg.visualizer.save_dir = folder
    else:
        hook.update(draw=True, test_out_dir=folder)


def build_runner(cfg: Config) -> Runner:
    """Build the runner that ``runner_type`` names, or mmengine's own."""
    # mmpose's older spelling of the field
    if 'preprocess_cfg' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.preprocess_cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def run(main: Callable[[], None]) -> None:
    """Call ``main``; print a :class:`UsageError` as one sentence instead of a traceback."""
    try:
        main()
    except UsageError as error:
        sys.exit(f'error: {error}')
