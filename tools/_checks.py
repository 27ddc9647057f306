"""Bad input, told apart before it costs time: files, data sets and checkpoints that do not fit."""

import math
import os.path as osp
import re
import textwrap
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from _cli import UsageError, type_name
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.device import get_device
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_state_dict
from mmengine.utils import is_abs
from mmtoken.common.weights import read_checkpoint as read_safely
from torch import nn

ACTIVITIES = dict(train='training', val='validation', test='testing')
# mmengine takes each group whole or not at all
PARTS = dict(
    train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
    val=('val_dataloader', 'val_cfg', 'val_evaluator'),
    test=('test_dataloader', 'test_cfg', 'test_evaluator'),
)
# heads that predict one score per class of the data set, unlike those of proposals
CLASS_HEADS = (
    *('bbox_head', 'mask_head', 'panoptic_head', 'decode_head'),
    *('roi_head.bbox_head', 'roi_head.mask_head'),
)


def check_parts(cfg: Config, needed: str) -> None:
    """Raise unless the config has a model, the split ``needed``, and the others whole or not."""
    for split, fields in PARTS.items():
        required = ('model', *fields) if split == needed else fields
        missing = [field for field in required if cfg.get(field) is None]
        if missing and (split == needed or missing != list(fields)):
            raise UsageError(
                f'{ACTIVITIES[split]} needs {", ".join(required)}, got a config without '
                f'{" and ".join(missing)}; add what is missing'
            )
    if cfg.get('param_scheduler') is not None and cfg.get('optim_wrapper') is None:
        cfg.param_scheduler = None


def check_launcher(cfg: Config) -> None:
    """Raise if several processes are to share a machine on which mmengine cannot tell them apart.

    It gives each process its own accelerator, whatever the backend of torch.distributed.
    """
    if cfg.launcher != 'none' and get_device() == 'cpu':
        raise UsageError(
            f'--launcher needs one accelerator per process, got {cfg.launcher!r} with device=cpu; '
            'run a single process without --launcher'
        )


def check_amp(cfg: Config) -> None:
    """Raise if the config asks for mixed precision where mmengine has none."""
    if type_name(cfg.optim_wrapper) == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UsageError(
            'mixed precision (--amp, AmpOptimWrapper) needs an accelerator, got device=cpu; '
            'train without it, or on a machine with a GPU that torch.cuda.is_available() sees'
        )


def check_files(cfg: Config, split: str) -> None:
    """Raise unless the files of one split ('train', 'val' or 'test') exist."""
    for dataset in innermost((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
        root = dataset.get('data_root') or ''
        images = (dataset.get('pipeline') or [{}])[0].get('backend_args')
        annotations = dataset.get('backend_args')
        for key, path in (dataset.get('data_prefix') or {}).items():
            _check_path(f'{split}_dataloader.dataset.data_prefix.{key}', root, path, images)
        for key, folder in (('ann_file', root), ('bbox_file', '')):
            path = dataset.get(key)
            _check_path(f'{split}_dataloader.dataset.{key}', folder, path, annotations, True)


def _check_path(
    field: str, root: str, path: str | None, backend_args: dict | None, is_file: bool = False
) -> None:
    """Ask the file backend of a path, joined with the root as mmengine does it."""
    if not path or not isinstance(path, str):
        return
    path = path if is_abs(path) else osp.join(root, path)
    backend = get_file_backend(path, backend_args=backend_args)
    # object stores have no folders, and some backends can only read
    if not isinstance(backend, LocalBackend) and not (is_file and hasattr(backend, 'exists')):
        return
    if not backend.exists(path):
        raise UsageError(
            f'{field} must exist, got {path!r}; put the data there, or say where it is with '
            '--data-root DIR'
        )


def innermost(dataset: dict | list | None) -> Iterator[dict]:
    """Yield the data sets inside wrappers (``dataset=``) and concatenations (``datasets=``)."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from innermost(part)
    elif dataset:
        inner = dataset.get('dataset') or dataset.get('datasets')
        yield from innermost(inner) if inner else [dataset]


def build_loop(runner: Runner, split: str) -> BaseLoop | None:
    """Build one loop of the runner; raise if it has nothing to do or other classes than the model.

    mmengine would train for zero iterations, or stop in numpy.
    """
    dataset_cfg = (runner.cfg.get(f'{split}_dataloader') or {}).get('dataset')
    try:
        loop = getattr(runner, f'{split}_loop')
        if loop is None:
            return None
        dataset = loop.dataloader.dataset
        size = len(dataset) if hasattr(dataset, '__len__') else math.inf
    except ValueError:
        # packing the samples into one array fails when there is none
        size = len(DATASETS.build(dict(dataset_cfg, serialize_data=False)))
        if size:
            raise
    if size == 0:
        raise UsageError(
            f'{split}_dataloader.dataset must hold at least one sample, got 0 from '
            f'ann_file={dataset_cfg.get("ann_file")!r}; see that the file has annotations of the '
            'kind that this model learns, and that filter_cfg, indices and metainfo keep some'
        )
    # an infinite sampler fills any batch
    too_few = isinstance(loop.dataloader.sampler, DefaultSampler) and not len(loop.dataloader)
    if too_few or getattr(loop, 'max_iters', 1) == 0:
        raise UsageError(
            f'{ACTIVITIES[split]} needs at least one iteration, got {size} samples in batches of '
            f'{runner.cfg[f"{split}_dataloader"].get("batch_size")} and {split}_cfg='
            f'{runner.cfg[f"{split}_cfg"]}; use a smaller batch_size, drop_last=False, or more '
            'epochs'
        )
    if isinstance(runner.model, nn.Module):  # sharded strategies build it later
        check_classes(runner.model, getattr(dataset, 'metainfo', {}), split)
    return loop


def unwrap(model: nn.Module) -> nn.Module:
    """Take the model out of wrappers for several devices and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def check_classes(model: nn.Module, metainfo: dict | list[dict], split: str) -> None:
    """Raise unless the heads of a model have as many classes as its data set."""
    model = unwrap(model)
    parts = metainfo if isinstance(metainfo, list) else [metainfo]  # mmdet's ConcatDataset
    names = [part.get(key) for part in parts for key in ('classes', 'thing_classes')]
    classes = [group for group in names if group]
    # a detector with a language model scores words of a text, not classes
    if not classes or hasattr(model, 'language_model'):
        return
    for name, module in model.named_modules():
        head = name.rstrip('.0123456789')  # cascades hold lists of heads
        number = getattr(module, 'num_classes', None)
        if head in CLASS_HEADS and number and number not in map(len, classes):
            raise UsageError(
                f'model.{name}.num_classes must be the number of classes in '
                f'{split}_dataloader.dataset, got {number} for {len(classes[0])} classes '
                f'{textwrap.shorten(", ".join(map(str, classes[0])), 60)}; set num_classes, or '
                'dataset.metainfo=dict(classes=...)'
            )


def read_checkpoint(path: str) -> dict:
    """Return the checkpoint in ``path``; raise unless it is whole and holds nothing but data.

    The runner reads it once more, and may fall back to the unpickler that runs code: a file that
    needs it is refused here.
    """
    try:
        if '://' in path and not path.startswith('http'):
            return CheckpointLoader.load_checkpoint(path, map_location='cpu')
        checkpoint = read_safely(path)
    except FileNotFoundError as error:
        raise UsageError(
            f'{error}; training writes epoch_N.pth, best_*.pth and the name of the newest one '
            '(last_checkpoint) into its work directory'
        ) from error
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if not isinstance(checkpoint, dict):
        raise UsageError(
            f'a checkpoint must hold named weights, got {path!r} with a '
            f'{type(checkpoint).__name__}; pass the file that training wrote'
        )
    return checkpoint


class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model.

    mmengine would log a warning and go on with random weights in the places that differ.

    Args:
        declared: Regular expressions; state-dict keys that one of them matches at the start may
            differ, e.g. ``head.`` when a pose model is fine-tuned to other joints.
    """

    def __init__(self, declared: Sequence[str] = ()) -> None:
        try:
            self.declared = [re.compile(pattern) for pattern in declared]
        except re.error as error:
            raise UsageError(
                f'--may-differ must be regular expressions, got {error.pattern!r}: {error}'
            ) from error

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the weights once strictly, before the runner does it leniently."""
        model = unwrap(runner.model)
        given = checkpoint.get('state_dict', checkpoint)
        given_metadata = getattr(given, '_metadata', None)
        given = {re.sub(r'^module\.', '', key): value for key, value in given.items()}
        own = model.state_dict()
        for pattern in self.declared:
            if not any(map(pattern.match, {*given, *own})):
                raise UsageError(
                    f'--may-differ must match weights, got {pattern.pattern!r}, which matches '
                    f'none; the names start with {sorted({key.split(".")[0] for key in own})}'
                )
        state = OrderedDict((key, value) for key, value in given.items() if not self._may(key))
        state.update((key, value) for key, value in own.items() if self._may(key))
        # versions, by which the hosts tell old files that they convert
        state._metadata = given_metadata
        try:
            load_state_dict(model, state, strict=True)
        except RuntimeError as error:
            found = [textwrap.shorten(line, 400) for line in str(error).splitlines()[1:] if line]
            raise UsageError(
                'the checkpoint must hold the weights of the model in the config, got '
                f'{"; ".join(found)}; use the config it was trained with, or declare what may '
                'differ with --may-differ REGEX'
            ) from error

    def _may(self, key: str) -> bool:
        return any(pattern.match(key) for pattern in self.declared)


class CheckStepsHook(Hook):
    """Stop a run whose loss is not finite, or that trains nothing, before it saves that."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Look at every loss of every iteration; mmengine reads their values anyway."""
        losses = {key: torch.as_tensor(v) for key, v in (outputs or {}).items() if 'loss' in key}
        wrong = [f'{key}={v.tolist()}' for key, v in losses.items() if not v.isfinite().all()]
        if wrong:
            raise UsageError(
                f'the loss must be finite, got {", ".join(wrong)} in iteration {runner.iter + 1} '
                f'(epoch {runner.epoch + 1}); lower the learning rate, clip gradients '
                '(optim_wrapper.clip_grad) or look for broken annotations'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """An epoch of no batches would go on to save the initial weights."""
        if runner.iter == 0:
            raise UsageError(
                'training needs at least one iteration, got an epoch without a batch; use a '
                'smaller train_dataloader.batch_size or drop_last=False'
            )
