"""Read the tensors of a checkpoint without running code that it may hold."""

from __future__ import annotations

import argparse
import codecs
import functools
import io
import os
import pickle
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import fileio
from mmengine.logging import HistoryBuffer
from torch import Tensor

from .conventions import rename_keys

# Weights of an exponential moving average are not among them: loading those is a choice.
CONTAINERS = ('state_dict', 'model')
_LOCK = threading.Lock()  # torch has one allow-list for all threads


def _history_method(owner: type, name: str) -> Callable:
    """Stand-in for ``getattr``, by which a history buffer pickles its own methods."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'GLOBAL {owner.__module__}.{owner.__qualname__}.{name}')
    return getattr(owner, name)


def _alias(name: str, function: Callable) -> Callable:
    """``function`` under the global name by which a pickle refers to it."""
    alias = functools.partial(function)
    alias.__module__, alias.__qualname__ = name.rsplit('.', 1)
    alias.__name__ = alias.__qualname__
    return alias


# What pickles numpy arrays and numbers
_RECONSTRUCT = (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0])
# Harmless globals that mmengine and the authors' scripts save next to the weights. numpy 2 renamed
# its private module, pickles of protocol 2 call builtins by their name in Python 2, and old torch
# does not allow `codecs.encode`, by which bytes are pickled.
SAFE_GLOBALS = [
    argparse.Namespace,
    HistoryBuffer,
    codecs.encode,
    slice,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?SU' + np.typecodes['AllInteger'] + np.typecodes['Float']},
    *(_alias(f'{module}.getattr', _history_method) for module in ('builtins', '__builtin__')),
    *(
        _alias(f'numpy.{core}.multiarray.{function.__name__}', function)
        for core in ('core', '_core')
        for function in _RECONSTRUCT
    ),
]
PICKLED = {
    'numpy.ndarray': np.ndarray,
    'numpy.dtype': np.dtype,
    '_codecs.encode': codecs.encode,
    'collections.OrderedDict': OrderedDict,
    **{
        f'numpy.{core}.multiarray.{function.__name__}': function
        for core in ('core', '_core')
        for function in _RECONSTRUCT
    },
}


@contextmanager
def safe_globals() -> Iterator[None]:
    """Allow torch's safe unpickler to build ``SAFE_GLOBALS`` within a ``with`` block."""
    with _LOCK:
        before = list(torch.serialization.get_safe_globals())
        torch.serialization.add_safe_globals(SAFE_GLOBALS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and dicts of them, as detectron2 pickles weights, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in PICKLED:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')
        return PICKLED[f'{module}.{name}']


def _as_tensors(content: Any) -> Any:
    """Turn the numeric arrays of nested dicts into tensors."""
    if isinstance(content, dict):
        return {key: _as_tensors(value) for key, value in content.items()}
    if isinstance(content, np.ndarray) and content.dtype.kind in 'biuf':
        return torch.from_numpy(content.astype(content.dtype.newbyteorder('=')))
    return content


def _load_pickle(data: bytes) -> Any:
    # Python 2 wrote some of detectron2's files
    return _as_tensors(_ArrayUnpickler(io.BytesIO(data), encoding='latin1').load())


def _load_safetensors(data: bytes) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load
    except ModuleNotFoundError:
        raise ImportError(
            'reading .safetensors needs safetensors, which is not installed; run "pip install '
            'safetensors"'
        ) from None
    return load(data)


def load_from_safetensors(filename: str, map_location: object = None) -> dict[str, Tensor]:
    """Read a local ``.safetensors`` file for mmengine, which names its loaders like this.

    Args:
        filename: Path of the file.
        map_location: As that of ``torch.load``; a runner copies the tensors to its device.

    Returns:
        Tensors by name.
    """
    state = read_checkpoint(filename)
    is_device = isinstance(map_location, (str, torch.device))
    return {key: v.to(map_location) for key, v in state.items()} if is_device else state


def _load_torch(data: bytes) -> Any:
    with safe_globals(), warnings.catch_warnings():
        # torch says that it runs such a file, which weights_only forbids
        warnings.filterwarnings('ignore', '.*TorchScript archive', UserWarning)
        return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def _download(url: str) -> Any:
    with safe_globals():
        return torch.hub.load_state_dict_from_url(url, map_location='cpu', weights_only=True)


# by suffix: the reader, and what writes such files
FORMATS = {'.pkl': (_load_pickle, 'pickle'), '.safetensors': (_load_safetensors, 'safetensors')}


def _not_found(path: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f'a checkpoint must be an existing file, got {path!r} ({type(error).__name__}); '
        'correct the path or download the file first'
    )


def read_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint without running code that it may hold.

    Args:
        path: File, http(s) URL, or path of a file backend that is registered with mmengine.
            ``.safetensors`` and ``.pkl`` (of numpy arrays, as in detectron2) are read as such,
            anything else as a file of ``torch.save`` with ``weights_only=True``.

    Returns:
        The content of the file: tensors by name, or a container around them.

    Raises:
        FileNotFoundError: If the file does not exist or cannot be opened.
        ImportError: If the file needs safetensors, which is not installed.
        ValueError: If its content is not a checkpoint, or has pickled objects.
    """
    path = os.path.expanduser(str(path))
    load, writer = FORMATS.get(os.path.splitext(path)[1], (_load_torch, 'torch.save'))
    is_download = path.startswith(('http://', 'https://')) and load is _load_torch
    try:
        data = None if is_download else fileio.get(path)
    except (OSError, KeyError) as error:  # a KeyError if no file backend has the prefix
        raise _not_found(path, error) from None
    try:
        return _download(path) if is_download else load(data)
    except OSError as error:
        raise _not_found(path, error) from None
    except ImportError:
        raise
    except Exception as error:
        raise _unreadable(path, writer, error) from None


def _unreadable(path: str, writer: str, error: Exception) -> ValueError:
    text = re.sub(r'\x1b\[\d*m', '', str(error))  # torch prints in bold
    pickled = re.search(r"(?:GLOBAL |<class '|function )([\w.]+)", text)
    if path.endswith('.npz'):
        reason = (
            'it is an archive of numpy arrays, as models of JAX are released; load it with '
            'timm.create_model(NAME, checkpoint_path=FILE) and save the state_dict of that model'
        )
    elif 'TorchScript' in text:
        reason = (
            "it is a TorchScript archive; save torch.jit.load(FILE, map_location='cpu')"
            '.state_dict() with torch.save'
        )
    elif pickled:
        reason = f'it holds a pickled {pickled[1]}; re-save only its state_dict'
    else:
        reason = (
            f'it is truncated or was not written by {writer}; download or copy it again '
            f'({type(error).__name__})'
        )
    # torch's own text advises to unpickle without its safeguard
    return ValueError(f'{path!r} cannot be read as a weights file: {reason}')


def read_state_dict(path: str | Path, prefix: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a checkpoint, out of its container.

    Unpacks ``{'state_dict': ...}`` and ``{'model': ...}`` and strips ``module.``, which
    DataParallel puts before each key.

    Args:
        path: As in :func:`read_checkpoint`.
        prefix: Module to take out of a larger model, e.g. ``'backbone'``; stripped from the keys.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: If the file does not exist or cannot be opened.
        ValueError: If the file cannot be read, has no named tensors, two keys for one parameter,
            or no key with the prefix.
    """
    return named_tensors(read_checkpoint(path), path, prefix)


def named_tensors(content: Any, path: str | Path, prefix: str | None = None) -> dict[str, Tensor]:
    """Take the named tensors out of what :func:`read_checkpoint` returned.

    Args:
        content: The content of the file.
        path: Of the file, for messages.
        prefix: As in :func:`read_state_dict`.

    Returns:
        Tensors by name.

    Raises:
        ValueError: As in :func:`read_state_dict`.
    """
    state = content if isinstance(content, dict) else {}
    for container in CONTAINERS:
        if isinstance(state.get(container), dict):
            state = state[container]
            break
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f'a checkpoint must hold named tensors (plain, or under one of {CONTAINERS}), got '
            f'{list(state)[:5] or type(content).__name__} in {str(path)!r}'
        )
    tensors = rename_keys(tensors, {key: key.removeprefix('module.') for key in tensors})
    if not prefix:
        return tensors
    start = str(prefix).rstrip('.') + '.'
    found = {key.removeprefix(start): v for key, v in tensors.items() if key.startswith(start)}
    if not found:
        modules = sorted({key.partition('.')[0] for key in tensors})
        raise ValueError(f'prefix must be a module in {str(path)!r}, {modules[:8]}, got {prefix!r}')
    return found
