"""Bad input, told apart before it costs time: files, data sets and checkpoints that do not fit."""

import os.path as osp
import re
import textwrap
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from _cli import UsageError
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import load_state_dict
from mmtoken.common.weights import read_checkpoint as read_safely


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
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise UsageError(
            'mixed precision (--amp, AmpOptimWrapper) needs an accelerator, got device=cpu; '
            'train without it, or on a machine with a GPU that torch.cuda.is_available() sees'
        )


def check_files(cfg: Config, split: str) -> None:
    """Raise unless the files of one split ('train', 'val' or 'test') exist."""
    for dataset in _datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
        root = dataset.get('data_root') or ''
        prefixes = dataset.get('data_prefix') or {}
        paths = {f'data_prefix.{key}': osp.join(root, path) for key, path in prefixes.items()}
        if dataset.get('ann_file'):
            paths['ann_file'] = osp.join(root, dataset.ann_file)
        paths['bbox_file'] = dataset.get('bbox_file')
        for key, path in paths.items():
            if path and '://' not in path and not osp.exists(path):
                raise UsageError(
                    f'{split}_dataloader.dataset.{key} must exist, got {path!r}; put the data '
                    f'there, or say where it is with --data-root DIR'
                )


def _datasets(dataset: dict | list | None) -> Iterator[dict]:
    """Yield the data sets inside wrappers (``dataset=``) and concatenations (``datasets=``)."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from _datasets(part)
    elif dataset:
        inner = dataset.get('dataset') or dataset.get('datasets')
        yield from _datasets(inner) if inner else [dataset]


def build_loop(runner: Runner, split: str) -> BaseLoop | None:
    """Build one loop of the runner; raise if its data set holds no sample.

    mmengine would train for zero iterations, or stop in numpy.
    """
    dataset_cfg = (runner.cfg.get(f'{split}_dataloader') or {}).get('dataset')
    try:
        loop = getattr(runner, f'{split}_loop')
        if loop is None:
            return None
        size = len(loop.dataloader.dataset)
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
    return loop


def read_checkpoint(path: str) -> dict:
    """Return the checkpoint in ``path``; raise unless it is whole and holds nothing but data.

    The runner reads it once more, and may fall back to the unpickler that runs code: a file that
    needs it is refused here.
    """
    try:
        return read_safely(path)
    except FileNotFoundError as error:
        raise UsageError(
            f'{error}; training writes epoch_N.pth, best_*.pth and the name of the newest one '
            '(last_checkpoint) into its work directory'
        ) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model.

    mmengine would log a warning and go on with random weights in the places that differ.

    Args:
        declared: Regular expressions; state-dict keys that one of them matches at the start may
            differ, e.g. ``head.`` when a pose model is fine-tuned to other joints.
    """

    def __init__(self, declared: Sequence[str] = ()) -> None:
        self.declared = declared

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load the weights once strictly, before the runner does it leniently."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        given = checkpoint.get('state_dict', checkpoint)
        named = ((re.sub(r'^module\.', '', key), value) for key, value in given.items())
        state = OrderedDict((key, value) for key, value in named if not self._is_declared(key))
        own = model.state_dict().items()
        state.update((key, value) for key, value in own if self._is_declared(key))
        # versions, by which the hosts tell old files that they convert
        state._metadata = getattr(given, '_metadata', None)
        try:
            load_state_dict(model, state, strict=True)
        except RuntimeError as error:
            found = [textwrap.shorten(line, 400) for line in str(error).splitlines()[1:] if line]
            raise UsageError(
                'the checkpoint must hold the weights of the model in the config, got '
                f'{"; ".join(found)}; use the config it was trained with, or declare what may '
                'differ with --may-differ REGEX'
            ) from error

    def _is_declared(self, key: str) -> bool:
        return any(re.match(pattern, key) for pattern in self.declared)
