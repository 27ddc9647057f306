"""Train any config of mmdet, mmseg, mmpose or mmpretrain: the union of the hosts' train.py.

python tools/train.py CONFIG [--data-root DIR] [--work-dir DIR] [--resume] [--amp] ...
torchrun --nproc_per_node 8 tools/train.py CONFIG --launcher pytorch

Unlike in the hosts, the other arguments take precedence over --cfg-options, ``data_root`` moves all
paths, and wrong files and checkpoints are refused before the run starts.
"""

import argparse

from _checks import CheckStepsHook, build_runner, check_device, check_parts, read_checkpoint
from _cli import load_config, make_runner_parser, run, type_name
from _errors import UsageError
from _resume import check_processes, resume, warn_of_position
from _saving import SafeCheckpointHook
from mmengine.config import Config
from mmengine.hooks import CheckpointHook


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_runner_parser('Train a detector, a segmentor, a pose estimator or a classifier')
    add = parser.add_argument
    add('--resume', nargs='?', const='auto', metavar='CHECKPOINT', help='default: the newest one')
    add('--amp', action='store_true', help='train in mixed precision (needs an accelerator)')
    add('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch')
    add('--no-validate', action='store_true', help='do not evaluate during training')
    return parser.parse_args()


def apply_options(cfg: Config, args: argparse.Namespace) -> None:
    """Apply --no-validate, --amp, --auto-scale-lr and --launcher to the config, and check it."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    check_parts(cfg, 'train')
    if (args.show or args.show_dir) and cfg.get('val_dataloader') is None:
        raise UsageError('--show and --show-dir draw the validation, got a run without it')
    if args.amp:
        kind = type_name(cfg.optim_wrapper)
        if kind not in ('', 'OptimWrapper', 'AmpOptimWrapper'):
            raise UsageError(f'--amp replaces an OptimWrapper, got optim_wrapper.type={kind!r}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            remedy = 'add auto_scale_lr=dict(base_batch_size=GPUs * images per GPU)'
            raise UsageError(f'--auto-scale-lr needs the batch size of the learning rate; {remedy}')
        cfg.auto_scale_lr.enable = True
    if cfg.launcher != 'none' and 'runner_type' not in cfg:
        # or every process draws the same drop path masks; Runner sends the parameters of the first
        cfg.randomness = dict(seed=None, diff_rank_seed=True) | (cfg.get('randomness') or {})


def main() -> None:
    """Load the config, check it and its files, and train."""
    args = parse_args()
    cfg = load_config(args)
    apply_options(cfg, args)
    check_device(cfg, 'train')
    meta = resume(cfg, args.resume)
    if cfg.get('load_from') and not cfg.get('resume'):
        read_checkpoint(cfg.load_from)
    elif args.may_differ and not cfg.get('load_from'):
        raise UsageError('--may-differ is about a checkpoint, got neither load_from nor --resume')

    runner = build_runner(cfg, args.may_differ, 'train', 'val')
    check_processes(meta)
    runner.register_hook(CheckStepsHook())
    for hook in runner.hooks:
        if type(hook) is CheckpointHook:
            hook.__class__ = SafeCheckpointHook
    if meta:
        warn_of_position(runner.train_loop, cfg.load_from, meta)
    runner.train()


if __name__ == '__main__':
    run(main)
