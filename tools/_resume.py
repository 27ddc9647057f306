"""Find the checkpoint that a run resumes from."""

import os.path as osp
from pathlib import Path

from _checks import read_checkpoint
from _cli import warn
from _errors import UsageError
from mmengine.config import Config
from mmengine.dist import all_gather_object
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, find_latest_checkpoint


def resume(cfg: Config, path: str | None) -> dict | None:
    """Set the fields by which the runner resumes from a checkpoint, if one is asked for.

    ``path`` is a checkpoint, 'auto' for the newest whole one in the work directory, or None to do
    as the config says. If there is no checkpoint, the run starts from ``load_from``. Returns the
    meta-information of the checkpoint, except for a folder, which only its strategy can read.
    """
    if cfg.get('resume'):
        path = path or cfg.get('load_from') or 'auto'
    if not path:
        if Path(cfg.work_dir, 'last_checkpoint').exists():
            warn(f'{cfg.work_dir!r} holds checkpoints, which are overwritten; --resume continues')
        return None
    if path == 'auto':
        path, meta = find_newest(cfg)
    elif osp.isdir(path) and 'runner_type' not in cfg:
        raise UsageError(f'--resume needs a file, got the folder {path!r}; name it with --work-dir')
    else:
        meta = None if osp.isdir(path) else read_meta(path)
    cfg.resume = path is not None
    if not cfg.resume:
        warn(f'no checkpoint to resume in {cfg.work_dir!r}: training starts from the beginning')
        return None
    cfg.load_from = path
    # The runner restores the seed only after it has built the sampler, which would then draw the
    # images in another order than the interrupted run.
    cfg.randomness = dict(cfg.get('randomness') or dict(seed=None))
    if meta and cfg.randomness.get('seed') is None:
        cfg.randomness.seed = meta.get('seed')
    return meta


def read_meta(path: str) -> dict:
    """Return the meta-information of a checkpoint; raise unless training can resume from it."""
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta') or {}
    if not {'epoch', 'iter'} <= meta.keys() or 'message_hub' not in checkpoint:
        raise UsageError(
            f'--resume needs a checkpoint of training, got {path!r} without its epoch and '
            f'iteration; start from its weights with --cfg-options load_from={path}'
        )
    return meta


def find_newest(cfg: Config) -> tuple[str | None, dict | None]:
    """Return the newest whole checkpoint of a work directory, and its meta-information."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = Path(cfg.work_dir)
    if hook.get('out_dir'):
        folder = Path(hook.out_dir, folder.resolve().name)
    named = find_latest_checkpoint(cfg.work_dir) or ''
    moved = folder / osp.basename(named)  # the work directory may have been moved since
    named = str(moved) if named and moved.exists() else named
    if osp.isdir(named):
        return named, None
    if named and (meta := _meta_or_warning(named)):
        return named, meta
    templates = (
        [hook.filename_tmpl] if hook.get('filename_tmpl') else ['epoch_{}.pth', 'iter_{}.pth']
    )
    paths = sorted({str(p) for name in templates for p in folder.glob(name.format('*'))})
    whole = {p: meta for p in paths if p != named and (meta := _meta_or_warning(p))}
    if not paths:
        return None, None
    if not whole:
        raise UsageError(
            f'--resume needs a whole checkpoint, got none among {paths}; a run from the beginning '
            'would overwrite them: move them away or choose another --work-dir'
        )
    path = max(whole, key=lambda path: whole[path]['iter'])
    warn(f'{cfg.work_dir}/last_checkpoint names no whole checkpoint: resuming from {path!r}')
    return path, whole[path]


def _meta_or_warning(path: str) -> dict | None:
    try:
        return read_meta(path)
    except UsageError as error:
        warn(str(error))


def check_processes(meta: dict | None) -> None:
    """Raise unless all processes resume from the same iteration.

    Each process looks for the newest checkpoint itself, and only the first one writes them.
    """
    found = all_gather_object(meta and meta['iter'])
    if len(set(found)) > 1:
        positions = ', '.join('none' if one is None else f'iteration {one}' for one in found)
        raise UsageError(
            '--resume needs the same checkpoint in all processes, got '
            f'{positions}; put the work directory on a file system that all machines share'
        )


def warn_of_position(loop: BaseLoop, path: str, meta: dict) -> None:
    """Warn if a resumed run repeats iterations, or has none left."""
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    repeated = meta['iter'] - meta['epoch'] * len(loop.dataloader) if by_epoch else 0
    if 0 < repeated <= len(loop.dataloader):
        warn(
            f'{path!r} was written inside epoch {meta["epoch"] + 1}, which starts again: '
            f'{repeated} of its {len(loop.dataloader)} iterations are repeated'
        )
    done, end = (meta['epoch'], loop.max_epochs) if by_epoch else (meta['iter'], loop.max_iters)
    if done >= end:
        warn(f'{path!r} is the end of a run of {end} {"epochs" if by_epoch else "iterations"}')
