"""Wheels of the packages that must be compiled, kept in a user cache outside of any checkout."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from setup_env.lock import locked
from setup_env.refusals import check_build_tools

# [source] packages: the module that fails to import unless the package was compiled for this stack
COMPILED = {'onedl-mmcv': 'mmcv.ops', 'xtcocotools': 'xtcocotools.mask'}
DURATION = {
    'onedl-mmcv': '6 to 48 minutes on 2 cores the first time on a machine',
    'xtcocotools': 'a few seconds',
}
MEMORY_PER_JOB = 2 * 10**9  # bytes that one compiler of mmcv's ops may take


def cache_root(environ=os.environ) -> Path:
    """Where wheels built here are kept, outside of any checkout."""
    if environ.get('MMTOKEN_WHEEL_CACHE'):
        return Path(environ['MMTOKEN_WHEEL_CACHE']).expanduser().resolve()
    base = environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'mmtoken' / 'wheels'


def cache_key(package: str, pins: dict[str, str], facts: dict, cuda: bool = False) -> str:
    """Name everything that a compiled wheel depends on."""
    key = f'{package}-{pins[package]}-torch{pins["torch"]}-{facts["tag"]}-{facts["machine"]}'
    if package == 'xtcocotools':
        key += '-numpy' + '.'.join(pins['numpy'].split('.')[:2])
    return key + '-cuda' if cuda else key


def cached_wheel(folder: Path) -> Path | None:
    """The wheel in a cache folder, if it is there."""
    wheel = next(iter(sorted(folder.glob('*.whl'))), None)
    if wheel and not zipfile.is_zipfile(str(wheel)):
        raise SystemExit(f'set-up: {wheel} is damaged; remove it: rm -r {folder}')
    return wheel


def publish(built: Path, folder: Path) -> Path:
    """Move a folder with a finished wheel into the cache in one step: none is ever half there."""
    if not cached_wheel(built):
        raise SystemExit(f'set-up: the build left no wheel in {built}; remove that and run again')
    if not cached_wheel(folder):
        os.replace(str(built), str(folder))
    return cached_wheel(folder)


class WheelCache:
    """Finds the wheel of a [source] package, or compiles it.

    Args:
        pins: The version of every package.
        facts: What the environment's Python says about itself.
        pip: Runs the environment's pip with arguments and environment variables.
    """

    def __init__(self, pins: dict[str, str], facts: dict, pip: Callable[..., None]) -> None:
        self.root = cache_root()
        self.pins = pins
        self.facts = facts
        self.pip = pip
        self.cuda = os.environ.get('FORCE_CUDA') == '1'

    def folder_of(self, package: str) -> Path:
        """The cache folder of a package."""
        cuda = self.cuda and package == 'onedl-mmcv'
        return self.root / cache_key(package, self.pins, self.facts, cuda)

    def find(self, package: str) -> Path | None:
        """The wheel of a package, if it is there."""
        return cached_wheel(self.folder_of(package))

    def build(self, package: str) -> Path:
        """Compile in a work folder that outlives an interruption, then publish in one step."""
        check_build_tools(self.facts, [package])
        folder = self.folder_of(package)
        work = folder.with_name(folder.name + '.build')
        with locked(folder.with_name(folder.name + '.lock')):
            if cached_wheel(folder):
                return cached_wheel(folder)
            wheels = work / 'wheel'
            options = ('-v', '--no-deps', '--no-build-isolation', '-w', wheels)
            source = self._source(package, work)
            self.pip('wheel', *options, source, **self._environ(package))
            wheel = publish(wheels, folder)
            shutil.rmtree(str(work))
        return wheel

    def _source(self, package: str, work: Path) -> Path:
        """Fetch and unpack the source once: building in one place lets ninja reuse its objects."""
        source = work / 'source'
        if not source.exists():
            sdist = work / 'sdist'
            options = ('--no-deps', '--no-build-isolation', '--no-binary', package, '-d', sdist)
            self.pip('download', *options, f'{package}=={self.pins[package]}')
            with tempfile.TemporaryDirectory(dir=str(work)) as unpacked:
                shutil.unpack_archive(str(next(sdist.iterdir())), unpacked)
                os.replace(str(next(Path(unpacked).iterdir())), str(source))
        return source

    def _environ(self, package: str) -> dict[str, str]:
        """What mmcv's build reads; setuptools takes CFLAGS in place of Python's own flags."""
        if package != 'onedl-mmcv':
            return {}
        environ = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(parallel_jobs())}
        if not self.cuda:
            environ['CUDA_VISIBLE_DEVICES'] = ''  # a visible GPU would ask for nvcc
        environ['CFLAGS'] = environ['CXXFLAGS'] = '-O2 -g0 -DNDEBUG -fwrapv'
        return {key: os.environ.get(key) or value for key, value in environ.items()}


def parallel_jobs() -> int:
    """How many compilers run at once: one a core, as far as the memory allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return max(1, min(cores or 1, memory // MEMORY_PER_JOB))
