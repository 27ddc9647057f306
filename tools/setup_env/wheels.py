"""Per-user cache of the wheels that must be compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

# [source] packages, with a module that imports only if compiled for this torch and numpy
COMPILED = {'onedl-mmcv': 'mmcv.ops', 'xtcocotools': 'xtcocotools.mask'}
MEMORY_PER_JOB = 2 * 10**9  # bytes used by one compiler process of mmcv's ops
CUDA = os.environ.get('FORCE_CUDA') == '1'


def cache_root() -> Path:
    """Return the wheel cache, which is shared by all checkouts."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    path = os.environ.get('MMTOKEN_WHEEL_CACHE') or f'{base}/mmtoken/wheels'
    return Path(path).expanduser().resolve()


def cache_folder(package: str, pins: dict[str, str], facts: dict, cuda: bool = CUDA) -> Path:
    """Return the folder of a wheel; its name lists everything the wheel was compiled against."""
    key = f'{package}-{pins[package]}-torch{pins["torch"]}-{facts["tag"]}-{facts["machine"]}'
    if package == 'xtcocotools':
        key += '-numpy' + '.'.join(pins['numpy'].split('.')[:2])
    elif cuda:
        key += '-cuda'
    return cache_root() / key


def find_wheel(folder: Path) -> Path | None:
    """Return the wheel in a cache folder, if any."""
    return next(folder.glob('*.whl'), None)


def build_wheel(package: str, version: str, folder: Path, pip: Callable[..., None]) -> Path:
    """Compile in a folder that survives an interruption, then move the wheel into the cache."""
    work = folder.with_name(folder.name + '.build')
    source, sdist, unpacked, wheel = (work / n for n in ('source', 'sdist', 'unpacked', 'wheel'))
    options = ('--no-deps', '--no-build-isolation')
    if not source.exists():
        pip('download', *options, '--no-binary', package, '-d', sdist, f'{package}=={version}')
        shutil.rmtree(unpacked, ignore_errors=True)
        shutil.unpack_archive(str(next(sdist.iterdir())), str(unpacked))
        os.replace(next(unpacked.iterdir()), source)
    environ = mmcv_environ() if package == 'onedl-mmcv' else {}
    pip('wheel', '-v', *options, '-w', wheel, source, **environ)
    os.replace(wheel, folder)  # atomic: the cache never holds an incomplete wheel
    shutil.rmtree(work)
    return find_wheel(folder)


def mmcv_environ() -> dict[str, str]:
    """Return the variables for mmcv's build; those already set by the user take precedence."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    jobs = max(1, min(cores or 1, memory // MEMORY_PER_JOB))
    flags = '-O2 -g0 -DNDEBUG -fwrapv'  # setuptools uses CFLAGS in place of Python's own flags
    environ = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs), 'CFLAGS': flags, 'CXXFLAGS': flags}
    if not CUDA:
        environ['CUDA_VISIBLE_DEVICES'] = ''  # mmcv needs nvcc as soon as a GPU is visible
    return {key: os.environ.get(key) or value for key, value in environ.items()}
