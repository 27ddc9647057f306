"""Per-user cache of the wheels that must be compiled."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from setup_env.shell import PIP, run

OPTIONS = ('--no-deps', '--no-build-isolation')
MEMORY_PER_JOB = 2 * 10**9  # bytes used by one compiler process of mmcv's ops


def cache_root() -> Path:
    """Return the wheel cache, which is shared by all checkouts and stacks."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    path = os.environ.get('MMTOKEN_WHEEL_CACHE') or f'{base}/mmtoken/wheels'
    return Path(path).expanduser().resolve()


def cache_folder(package: str, pins: dict[str, str]) -> Path:
    """Return the folder of a wheel; its name lists everything the wheel was compiled against."""
    python = 'cp{}{}-'.format(*sys.version_info) + platform.machine()
    key = f'{package}-{pins[package]}-torch{pins["torch"]}-{python}'
    if package == 'xtcocotools':
        key += '-numpy' + '.'.join(pins['numpy'].split('.')[:2])
    elif os.environ.get('FORCE_CUDA') == '1':
        key += '-cuda'
    return cache_root() / key


def find_wheel(package: str, pins: dict[str, str]) -> Path | None:
    """Return a wheel of the cache, if it is there."""
    return next(cache_folder(package, pins).glob('*.whl'), None)


def build_wheel(package: str, pins: dict[str, str]) -> None:
    """Compile in a folder that survives an interruption, then move the wheel into the cache."""
    folder = cache_folder(package, pins)
    work = folder.with_name(folder.name + '.build')
    source, sdist, unpacked, wheel = (work / n for n in ('source', 'sdist', 'unpacked', 'wheel'))
    if not source.exists():
        pin = f'{package}=={pins[package]}'
        run(*PIP, 'download', *OPTIONS, '--no-binary', package, '-d', sdist, pin)
        shutil.rmtree(unpacked, ignore_errors=True)
        shutil.unpack_archive(str(next(sdist.iterdir())), str(unpacked))
        os.replace(next(unpacked.iterdir()), source)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(len(os.sched_getaffinity(0)), memory // MEMORY_PER_JOB))
    flags = '-O2 -g0 -DNDEBUG -fwrapv'  # setuptools uses CFLAGS in place of Python's own flags
    variables = dict(MMCV_WITH_OPS='1', MAX_JOBS=str(jobs), CFLAGS=flags, CXXFLAGS=flags)
    if os.environ.get('FORCE_CUDA') != '1':
        variables['CUDA_VISIBLE_DEVICES'] = ''  # mmcv needs nvcc as soon as a GPU is visible
    os.environ.update({name: os.environ.get(name) or value for name, value in variables.items()})
    os.environ.pop('MAKEFLAGS', None)  # ninja reads it
    run(*PIP, 'wheel', '-v', *OPTIONS, '-w', wheel, source)
    os.replace(wheel, folder)  # atomic: the cache never holds an incomplete wheel
    shutil.rmtree(work)
