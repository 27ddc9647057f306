"""Per-user cache of the wheels that must be compiled."""

import os
import platform
import shutil
import sys
from pathlib import Path

from setup_env.shell import PIP, run

OPTIONS = ('--no-deps', '--no-build-isolation')
FLAGS = '-O2 -g0 -DNDEBUG -fwrapv'  # setuptools uses CFLAGS in place of Python's own flags


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


def find_wheel(package: str, pins: dict[str, str]) -> str:
    """Return the path of a wheel in the cache; '' if it is not there."""
    return ''.join(map(str, cache_folder(package, pins).glob('*.whl')))


def build_wheel(package: str, pins: dict[str, str]) -> str:
    """Compile in a folder that survives an interruption, then move the wheel into the cache."""
    print(f'set-up: compiling {package} (mmcv: 6 to 48 minutes on 2 cores, once per machine)')
    folder = cache_folder(package, pins)
    work = folder.with_name(folder.name + '.build')
    source, sdist, unpacked, wheel = (work / n for n in ('source', 'sdist', 'unpacked', 'wheel'))
    if not source.exists():
        pin = f'{package}=={pins[package]}'
        run(*PIP, 'download', *OPTIONS, '--no-binary', package, '-d', sdist, pin)
        shutil.unpack_archive(next(sdist.iterdir()), unpacked)
        os.replace(next(unpacked.iterdir()), source)
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, min(len(os.sched_getaffinity(0)), memory // 2_000_000_000))  # 2 GB a compiler
    defaults = dict(MMCV_WITH_OPS='1', MAX_JOBS=str(jobs), CFLAGS=FLAGS, CXXFLAGS=FLAGS)
    if os.environ.get('FORCE_CUDA') != '1':
        defaults['CUDA_VISIBLE_DEVICES'] = ''  # mmcv needs nvcc as soon as a GPU is visible
    os.environ.update({name: os.environ.get(name) or value for name, value in defaults.items()})
    os.environ.pop('MAKEFLAGS', None)  # ninja reads it
    run(*PIP, 'wheel', '-v', *OPTIONS, '-w', wheel, source)
    os.replace(wheel, folder)  # atomic: the cache never holds an incomplete wheel
    shutil.rmtree(work)
    return find_wheel(package, pins)
