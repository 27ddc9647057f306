"""Which checkpoint a run goes on from, and what is said where it cannot."""

import os.path as osp
import re
from pathlib import Path

from _checks import read_checkpoint
from _cli import UsageError, warn
from mmengine.config import Config
from mmengine.runner import BaseLoop, EpochBasedTrainLoop


def resume(cfg: Config, path: str) -> dict | None:
    """Make the config go on from a checkpoint, or from the newest whole one ('auto').

    Where there is none, the run starts as without ``--resume``: ``load_from`` counts.

    Args:
        cfg: The config; ``resume``, ``load_from`` and ``randomness`` change.
        path: A checkpoint, or 'auto'.

    Returns:
        The meta-information of the checkpoint; None if the run starts from the beginning or the
        checkpoint is a folder, which only the strategy that wrote it can read.
    """
    if path == 'auto':
        path, meta = find_newest(cfg)
    elif osp.isdir(path):
        meta = None
    else:
        meta = read_meta(path)
    cfg.resume = path is not None
    if path is None:
        warn(f'no checkpoint to resume in {cfg.work_dir!r}: training starts from the beginning')
        return None
    cfg.load_from = path
    # The runner adopts the seed of the checkpoint only after it has built the sampler, which
    # would then draw another order of the images than the interrupted run.
    cfg.randomness = dict(cfg.get('randomness') or {})
    if meta and cfg.randomness.get('seed') is None:
        cfg.randomness.seed = meta.get('seed')
    return meta


def read_meta(path: str) -> dict:
    """Return the meta-information of a checkpoint; raise unless training can go on from it."""
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get('meta') or {}
    if not {'epoch', 'iter'} <= meta.keys() or 'message_hub' not in checkpoint:
        raise UsageError(
            f'--resume needs a checkpoint that training wrote, got {path!r} without its epoch and '
            f'iteration; start from its weights with --cfg-options load_from={path}'
        )
    return meta


def find_newest(cfg: Config) -> tuple[str | None, dict | None]:
    """Return the newest whole checkpoint of a work directory, and its meta-information."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folder = Path(cfg.work_dir)
    if hook.get('out_dir'):
        folder = Path(hook.out_dir, folder.resolve().name)
    named = _last_saved(Path(cfg.work_dir), folder)
    if named:
        if osp.isdir(named):
            return named, None
        meta = _meta_or_warning(named)
        if meta:
            return named, meta
    named_by_user = hook.get('filename_tmpl')
    found, broken = [], []
    for template in (named_by_user,) if named_by_user else ('epoch_{}.pth', 'iter_{}.pth'):
        for path in map(str, sorted(folder.glob(template.format('*')), key=_number, reverse=True)):
            meta = None if path == named else _meta_or_warning(path)
            if meta:
                found.append((meta['iter'], path, meta))
                break
            broken.append(path)
    if broken and not found:
        raise UsageError(
            f'--resume needs a whole checkpoint, got none among {broken}; a run from the beginning '
            'would overwrite them: move them away or choose another --work-dir'
        )
    if not found:
        return None, None
    _, path, meta = max(found)
    warn(f'{cfg.work_dir}/last_checkpoint names no whole checkpoint: resuming from {path!r}')
    return path, meta


def _last_saved(work_dir: Path, folder: Path) -> str | None:
    """The checkpoint that was saved last, found again if the work directory was moved."""
    try:
        name = (work_dir / 'last_checkpoint').read_text().strip()
    except FileNotFoundError:
        return None
    moved = folder / osp.basename(name)
    return str(moved) if name and moved.exists() else name or None


def _meta_or_warning(path: str) -> dict | None:
    try:
        return read_meta(path)
    except UsageError as error:
        warn(str(error))
        return None


def _number(path: Path) -> int:
    return int((re.findall(r'\d+', path.stem) or [0])[-1])


def warn_of_position(loop: BaseLoop, path: str, meta: dict) -> None:
    """Say so if a resumed run repeats iterations, or has none left."""
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
