"""Errors that a config or a file causes, as one sentence; all others keep their traceback."""

import difflib
import os.path as osp
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from types import ModuleType
from typing import Any
from unittest.mock import patch

from mmengine.registry import Registry

TOOLS = osp.dirname(osp.realpath(__file__))
PLACE = re.compile(r'^ *File "(.+?)", line (\d+)', re.MULTILINE)
# the config has been built: a loop or a model is at work
RUNNING = re.compile(r'loops?\.py", line \d+, in run|, in _call_impl')
EXTRA_KEYS = 'child config cannot inherit|unexpected keyword argument|needs exactly the keys'


class UsageError(ValueError):
    """The command or its files are wrong; the message says what to do about it."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn errors that a config or a file causes into a :class:`UsageError`."""
    last: dict[str, str] = {}  # look-up in a registry, whose failure the hosts report in many ways
    get = Registry.get

    def watched(registry: Registry, key: str) -> type | None:
        found = get(registry, key)
        last.clear()
        if found is None:
            last[key] = closest_names(registry, key)
        return found

    try:
        with patch.object(Registry, 'get', watched):
            yield
    except UsageError:
        raise
    except Exception as error:
        if sentence := explain(error, last):
            raise UsageError(sentence) from error
        raise


def closest_names(registry: Registry, key: str) -> str:
    """Return the names in a registry and those of the hosts that are the most like ``key``."""
    root = registry.root
    names = {name for one in (root, *root.children.values()) for name in one.module_dict}
    return ', '.join(difflib.get_close_matches(key.rpartition('.')[2], names))


def explain(error: Exception, failed_lookup: dict[str, str]) -> str | None:
    """Return one sentence for an error that a config or a file caused, None for others."""
    text = ''.join(traceback.format_exception(error))
    places = PLACE.findall(text)  # those of a worker of the data loader included
    by_user = not all(is_library(path) for path, _ in places)
    got, running = f'got {type(error).__name__}: {message_of(error)}', RUNNING.search(text)
    if re.search(EXTRA_KEYS, got) and not (running and by_user):
        rule = 'a dict of a config keeps the keys of its base, and its class must know all of them'
        return f'{rule}, {got}; correct the keys, or add _delete_=True to the dict'
    readers = ('fromfile', '_file2dict', '_parse_lazy_import')
    if (config := last_local(error, readers, 'filename')) and '<frozen importlib' not in text:
        remedy = 'install it' if isinstance(error, ModuleNotFoundError) else 'correct that file'
        return f'a config and its bases must be valid, {got} in {config!r}; {remedy}'
    if options := last_local(error, ('merge_from_dict',), 'options'):
        rule = f'--cfg-options must fit the config, {got} for {", ".join(options)}'
        return f'{rule}; elements of lists are named by their index, from 0'
    of_lookup = isinstance(error, (AssertionError, AttributeError, KeyError, TypeError))
    of_lookup &= not by_user or places[-1][0].endswith('registry/build_functions.py')
    if failed_lookup and of_lookup:
        ((key, close),) = failed_lookup.items()
        remedy = 'install its host, or list its module in custom_imports'
        remedy = f'did you mean {close}?' if close else remedy
        return f'type must name a registered class, got {key!r}; {remedy}'
    return None if by_user else explain_library(error, *places[-1], running)


def explain_library(error: Exception, file: str, line: str, running: object) -> str | None:
    """Return one sentence for an error without code of the user.

    An error of this suite, or of a model at work, needs a traceback: the place matters.
    """
    file, message = osp.realpath(file), message_of(error)
    got = f'got {type(error).__name__}: {message}'
    by_us = file.startswith((TOOLS, folder_of(sys.modules['mmtoken'])))
    if by_us and isinstance(error, (ValueError, FileNotFoundError)):
        return message  # says it all
    if isinstance(error, OSError):
        return f'files must exist, and be accessible and whole, {got}; correct the path or the file'
    of_data = f'{osp.sep}mmengine{osp.sep}' in file or file.endswith('transforms/loading.py')
    if by_us or (running and not of_data):
        return None
    place = f'{file.rpartition("site-packages/")[2]}, line {line}'
    if kind := last_local(error, ('build_from_cfg',), 'obj_type'):
        place = f'building {getattr(kind, "__name__", kind)}; {place}'
    rule = 'the config and the data must fit the classes that use them'
    remedy = 'install it' if isinstance(error, ImportError) else 'correct the config or the data'
    return f'{rule}, {got} ({place}); {remedy} (MMTOKEN_TRACEBACK=1 shows the traceback)'


def last_local(error: Exception, functions: Sequence[str], name: str) -> Any:
    """Return a local variable of the innermost call of the functions on the way to an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [f.f_locals.get(name) for f in frames if f.f_code.co_name in functions]
    return found[-1] if found else None


def is_library(file: str) -> bool:
    """Return whether a file of a traceback belongs to Python, an installed package or a host."""
    names = ('mmtoken', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpose', 'mmpretrain')
    folders = [folder_of(sys.modules[name]) for name in names if name in sys.modules]
    folders += [TOOLS, sysconfig.get_path('stdlib'), *site.getsitepackages()]
    return (
        file.startswith('<')
        or file.endswith('.pyx')
        or osp.realpath(file).startswith(tuple(folders))
    )


def folder_of(package: ModuleType) -> str:
    """Return the folder of a package."""
    return osp.dirname(osp.realpath(package.__file__))


def message_of(error: Exception) -> str:
    """Return what an error says; of one in a worker of the data loader, the last line."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if 'Original Traceback' in text:
        text = text.strip().splitlines()[-1].partition(': ')[2]
    return shorten(text, 400)
