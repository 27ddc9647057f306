"""Checks that run before training or testing starts, and hooks that stop a run gone wrong."""

import math
import os
import os.path as osp
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from textwrap import shorten

import torch
from _cli import type_name
from _errors import UsageError
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_state_dict
from mmengine.utils import is_abs
from mmtoken.common.strict_load import check_patterns, matches_any, value_difference
from mmtoken.common.weights import read_checkpoint as read_safely
from torch import nn

# what a split is for, and its third field; mmengine needs all fields of a split, or none
ACTIVITIES = dict(train='training', val='validation', test='testing')
THIRD_FIELDS = dict(train='optim_wrapper', val='val_evaluator', test='test_evaluator')
# heads that predict one score per class of the data set, unlike those of proposals
CLASS_HEADS = 'bbox_head mask_head panoptic_head decode_head roi_head.bbox_head roi_head.mask_head'
CLASS_HEADS += ' head'


def check_parts(cfg: Config, needed: str) -> None:
    """Raise unless the model and the split ``needed`` are there, and no other split is partial."""
    parts = [f'{split}_{part}' for split in THIRD_FIELDS for part in ('dataloader', 'cfg')]
    for field in ('model', 'optim_wrapper', 'default_hooks', *parts):
        if not isinstance(cfg.get(field) or {}, dict):
            raise UsageError(f'{field} must be a dict, got {cfg[field]!r}')
    for split, third in THIRD_FIELDS.items():
        fields = [f'{split}_dataloader', f'{split}_cfg', third]
        required = ['model', *fields] if split == needed else fields
        missing = [field for field in required if cfg.get(field) is None]
        if missing and (split == needed or missing != fields):
            rule = f'{ACTIVITIES[split]} needs {", ".join(required)}'
            raise UsageError(f'{rule}, got a config without {" and ".join(missing)}; add them')
    if cfg.get('optim_wrapper') is None:  # mmengine refuses schedules without it
        cfg.param_scheduler = None


def check_device(cfg: Config, split: str) -> None:
    """Let several processes train on a CPU; raise if one asks for mixed-precision training."""
    if get_device() != 'cpu':
        return
    if split == 'train' and type_name(cfg.optim_wrapper) == 'AmpOptimWrapper':
        raise UsageError('mixed precision needs an accelerator, got device=cpu; train without it')
    if cfg.launcher != 'none':
        use_gloo(cfg)


def use_gloo(cfg: Config) -> None:
    """Connect the processes on CPUs; mmengine's launchers number them by their accelerators."""
    if cfg.launcher != 'pytorch' or 'WORLD_SIZE' not in os.environ:
        rule = '--launcher on a CPU must be pytorch, in a process that torchrun started'
        raise UsageError(f'{rule}, got {cfg.launcher!r}; run without it, or with torchrun')
    if not is_distributed():
        torch.distributed.init_process_group('gloo')
    unused = cfg.get('find_unused_parameters', False)
    wrapper = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=unused)
    cfg.model_wrapper_cfg = wrapper | (cfg.get('model_wrapper_cfg') or {})


def check_files(cfg: Config, split: str) -> None:
    """Raise unless the files of one split ('train', 'val' or 'test') exist."""
    for dataset in innermost((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
        root = dataset.get('data_root') or ''
        first = (dataset.get('pipeline') or [{}])[0]
        images = first.get('backend_args') if isinstance(first, dict) else None
        prefixes = dataset.get('data_prefix') or {}
        prefixes = prefixes if isinstance(prefixes, dict) else {'': prefixes}  # mmpretrain
        prefixes = {f'data_prefix.{k}'.rstrip('.'): v for k, v in prefixes.items()}
        files = {key: dataset.get(key) for key in ('ann_file', 'bbox_file')}
        paths = {**prefixes, **files}
        for key, path in (paths if any(paths.values()) else {'data_root': root}).items():
            if not path or not isinstance(path, str):
                continue
            if key not in ('bbox_file', 'data_root') and not is_abs(path):  # as mmengine joins them
                path = osp.join(root, path)
            backend_args = dataset.get('backend_args') if key in files else images
            backend = get_file_backend(path, backend_args=backend_args)
            # object stores have no folders, and some backends can only read
            can_tell = key in files and hasattr(backend, 'exists')
            if (can_tell or isinstance(backend, LocalBackend)) and not backend.exists(path):
                raise UsageError(
                    f'{split}_dataloader.dataset.{key} must exist, got {path!r}; put the data '
                    'there, or set its location with --data-root DIR'
                )


def innermost(dataset: dict | Sequence | None) -> Iterator[dict]:
    """Yield the data sets inside wrappers (``dataset=``) and concatenations (``datasets=``)."""
    for part in dataset if isinstance(dataset, (list, tuple)) else filter(None, [dataset]):
        if not isinstance(part, dict):
            raise UsageError(f'a dataset of a data loader must be a dict, got {part!r}')
        inner = part.get('dataset') or part.get('datasets')
        yield from innermost(inner) if inner else [part]


def build_loop(runner: Runner, split: str) -> None:
    """Build one loop of the runner; raise if it has nothing to do or other classes than the model.

    mmengine would train for zero iterations, or fail inside numpy.
    """
    loader_cfg = runner.cfg.get(f'{split}_dataloader') or {}
    try:
        loop = getattr(runner, f'{split}_loop')
        if loop is None:
            return
        dataset = loop.dataloader.dataset
        size = len(dataset) if hasattr(dataset, '__len__') else math.inf
    except ValueError:
        # packing the samples into one array fails when there is none
        size = len(DATASETS.build(dict(loader_cfg['dataset'], serialize_data=False)))
        if size:
            raise
    # an infinite sampler fills any batch
    finite = size and isinstance(loop.dataloader.sampler, DefaultSampler)
    if not size or (finite and not len(loop.dataloader)) or getattr(loop, 'max_iters', 1) < 1:
        raise UsageError(
            f'{ACTIVITIES[split]} needs at least one iteration, got {size} samples of ann_file='
            f'{loader_cfg["dataset"].get("ann_file")!r}, batch_size={loader_cfg.get("batch_size")} '
            f'and {split}_cfg={runner.cfg[f"{split}_cfg"]}; use a smaller batch_size, '
            'drop_last=False, more epochs, or a filter_cfg and metainfo that keep more samples'
        )
    interval = getattr(loop, 'val_interval', 1)
    if not isinstance(interval, int) or interval < 1:
        raise UsageError(f'train_cfg.val_interval must be 1 or more, got {interval!r}')
    if isinstance(runner.model, nn.Module):  # sharded strategies build it later
        check_classes(unwrap(runner.model), getattr(dataset, 'metainfo', {}), split)


def unwrap(model: nn.Module) -> nn.Module:
    """Take the model out of wrappers for several devices and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_classes(model: nn.Module, metainfo: dict | list[dict], split: str) -> None:
    """Raise unless the heads of a model have as many classes as its data set."""
    parts = metainfo if isinstance(metainfo, list) else [metainfo]  # mmdet's ConcatDataset
    keys = ('classes', 'thing_classes')
    classes = [part[key] for part in parts for key in keys if part.get(key)]
    # a detector with a language model scores words of a text, not classes
    if not classes or hasattr(model, 'language_model'):
        return
    for name, module in model.named_modules():
        head = name.rstrip('.0123456789')  # cascades hold lists of heads
        number = getattr(module, 'num_classes', None)
        if head in CLASS_HEADS.split() and number and number not in map(len, classes):
            raise UsageError(
                f'model.{name}.num_classes must be that of {split}_dataloader, got {number} for '
                f'{len(classes[0])} classes {shorten(", ".join(map(str, classes[0])), 60)}; set '
                'num_classes, or dataset.metainfo=dict(classes=...)'
            )


def read_checkpoint(path: str) -> dict:
    """Return the checkpoint in ``path``; raise unless it is whole and holds nothing but data.

    The runner reads it again and may fall back to an unpickler that executes code.
    """
    try:
        if '://' in path and not path.startswith('http'):
            return CheckpointLoader.load_checkpoint(path, map_location='cpu')
        checkpoint = read_safely(path)
    except FileNotFoundError as error:
        hint = 'the file last_checkpoint in a work directory names the newest one'
        raise UsageError(f'{error}; {hint}') from error
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise UsageError(f'a checkpoint must hold named weights, got {path!r} with a {kind}')
    return checkpoint


class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model, or whose values are not finite.

    mmengine would only log a warning and keep random weights wherever the two differ. ``declared``
    are regular expressions, matched from the start of a key, of weights that may differ.
    """

    priority = 'VERY_LOW'

    def __init__(self, declared: Sequence[str]) -> None:
        self.declared = declared

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the weights once strictly, before the runner does it leniently."""
        if not isinstance(runner, Runner):  # sharded strategies hold no complete model
            return
        model = unwrap(runner.model)
        own, content = model.state_dict(), checkpoint.get('state_dict', checkpoint)
        given = {key.removeprefix('module.'): value for key, value in content.items()}
        try:
            place = 'of the model or the checkpoint'
            declared = check_patterns('--may-differ', self.declared, {**given, **own}, place)
        except ValueError as error:
            raise UsageError(str(error)) from error
        state = OrderedDict((k, v) for k, v in given.items() if not matches_any(k, declared))
        found = [
            f'{key}: {difference}'
            for key, value in state.items()
            if key in own and getattr(value, 'shape', None) == own[key].shape
            if (difference := value_difference(value, own[key]))
        ]
        state.update((key, value) for key, value in own.items() if matches_any(key, declared))
        # by their version, the hosts recognise old files, which they convert
        state._metadata = getattr(content, '_metadata', None)
        try:
            load_state_dict(model, state, strict=True)
        except RuntimeError as error:
            found += [line for line in str(error).splitlines()[1:] if line]
        if found:
            raise UsageError(
                'the checkpoint must hold the weights of the model in the config, got '
                f'{"; ".join(shorten(line, 400) for line in found)}; use the config it '
                'was trained with, or declare what may differ with --may-differ REGEX'
            )


class CheckStepsHook(Hook):
    """Stop a run that diverges, or that trains nothing, before it saves a checkpoint."""

    remedy = (
        'lower the learning rate, clip gradients (optim_wrapper.clip_grad) or look for broken '
        'annotations'
    )

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Check the losses of every iteration; mmengine reads their values anyway."""
        losses = {key: torch.as_tensor(v) for key, v in (outputs or {}).items() if 'loss' in key}
        wrong = [f'{key}={v.tolist()}' for key, v in losses.items() if not v.isfinite().all()]
        if wrong:
            raise UsageError(
                f'the loss must be finite, got {", ".join(wrong)} in iteration {runner.iter + 1} '
                f'(epoch {runner.epoch + 1}); {self.remedy}'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the parameters: the step after the last loss may have made them infinite."""
        parameters = runner.model.named_parameters()
        wrong = [name for name, value in parameters if not value.isfinite().all()]
        if wrong:
            raise UsageError(
                'parameters must be finite to be saved, got NaN or infinite values in '
                f'{shorten(", ".join(wrong), 200)}; {self.remedy}'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Raise after an epoch without batches, which would save the initial weights."""
        if runner.iter == 0:
            raise UsageError('training needs batches, got an epoch without; lower batch_size')


def build_runner(cfg: Config, may_differ: Sequence[str], *splits: str) -> Runner:
    """Build a runner and the loops of its splits; raise unless files, data and weights fit."""
    for split in splits:
        check_files(cfg, split)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for split in splits:
        build_loop(runner, split)
    if 'train' in splits and isinstance(runner, Runner):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.register_hook(StrictLoadHook(may_differ))
    return runner
