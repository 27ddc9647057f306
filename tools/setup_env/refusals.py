"""What is refused, at once and not after an hour: the rule, what was found and the remedy."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setup_env.environment import LOG, python_of

OLDEST, NEWEST = (3, 10), (3, 12)
# the folder of each is written by the other family's distribution as well
OFFICIAL_FAMILY = ('mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation')
GB = 10**9


def check_python(version: tuple[int, ...], where: str) -> None:
    """Refuse a Python that the pinned stack does not exist for."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise SystemExit(
            'set-up: MMToken needs Python {}.{} to {}.{}, but {} is Python {}.{}; install one '
            '(Debian: apt-get install python3.11 python3.11-venv python3.11-dev) and name it: '
            'make PYTHON=python3.11 VENV=.venv311'.format(
                *OLDEST + NEWEST + (where,) + tuple(version[:2])
            )
        )


def check_venv_path(venv: Path) -> None:
    """Refuse a path that holds something else than a virtual environment."""
    if not os.path.lexists(str(venv)):
        return
    # an interrupted first run leaves its log, if nothing else
    ours = any((venv / name).exists() for name in ('pyvenv.cfg', LOG))
    if not venv.is_dir() or (any(venv.iterdir()) and not ours):
        raise SystemExit(
            f'set-up: {venv} exists and is not a virtual environment (no pyvenv.cfg); it is left '
            'alone. Choose another place (make VENV=DIR) or move it away'
        )
    python = python_of(venv)
    if python.is_symlink() and not python.exists():
        raise SystemExit(
            f'set-up: {venv} belongs to a Python that is gone ({python} points to '
            f'{os.readlink(str(python))}); move it away or choose another place (make VENV=DIR)'
        )


def check_same_python(venv: Path, chosen: tuple[int, ...]) -> None:
    """Refuse to ignore a PYTHON= that differs from the one the environment was made with."""
    config = venv / 'pyvenv.cfg'
    made = re.search(
        r'(?m)^version\w* *= *(\d+)\.(\d+)', config.read_text() if config.exists() else ''
    )
    if made and tuple(map(int, made.groups())) != chosen:
        raise SystemExit(
            'set-up: PYTHON= is Python {}.{}, but {} was made with Python {}.{}; choose another '
            'place for it (make VENV=DIR)'.format(*chosen + (venv,) + made.groups())
        )


def check_interpreter(facts: dict) -> None:
    """Refuse a Python without venv or ensurepip: it makes no environment."""
    if not facts['ensurepip']:
        name = 'python{}.{}'.format(*facts['version'][:2])
        raise SystemExit(
            f'set-up: a virtual environment needs venv and ensurepip, which {facts["executable"]} '
            f'lacks; install them (Debian: apt-get install {name}-venv)'
        )


def check_build_tools(facts: dict, packages: list[str], which=shutil.which) -> None:
    """Refuse to start what cannot be compiled."""
    if not packages:
        return
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if not which(compiler):
        raise SystemExit(
            f'set-up: {" and ".join(packages)} must be compiled, and there is no C++ compiler '
            f'({compiler} is not on PATH); install one (Debian: apt-get install build-essential)'
        )
    header = Path(facts['include']) / 'Python.h'
    if not header.exists():
        name = 'python{}.{}'.format(*facts['version'][:2])
        raise SystemExit(
            f'set-up: {" and ".join(packages)} must be compiled, and the headers of Python are '
            f'missing ({header}); install them (Debian: apt-get install {name}-dev)'
        )


def check_disk(needs: list[tuple[str, Path, int]], device_of=None, free_on=None) -> None:
    """Refuse when a file system lacks the room for everything that will be written to it."""
    device_of = device_of or (lambda path: os.stat(str(path)).st_dev)
    free_on = free_on or (lambda path: shutil.disk_usage(str(path)).free)
    devices: dict[int, list[tuple[str, Path, int]]] = {}
    for what, path, size in needs:
        while not path.exists():
            path = path.parent
        devices.setdefault(device_of(path), []).append((what, path, size))
    for entries in devices.values():
        total = sum(size for _, _, size in entries)
        free = free_on(entries[0][1])
        if free < total:
            parts = ', '.join(f'{size / GB:.1f} for {what}' for what, _, size in entries)
            raise SystemExit(
                f'set-up: {total / GB:.1f} GB must be free on the file system of {entries[0][1]} '
                f'({parts}), but {free / GB:.1f} GB are; free some, or move a part to a larger '
                'disk with VENV=, MMTOKEN_WHEEL_CACHE= or TMPDIR='
            )


def check_family(installed: dict[str, str], venv: Path) -> None:
    """Refuse an environment with the official family, whose files ours would overwrite."""
    official = [f'{name} {installed[name]}' for name in OFFICIAL_FAMILY if name in installed]
    if official:
        raise SystemExit(
            f'set-up: {venv} has {", ".join(official)}, which the pinned onedl packages would '
            'overwrite file by file; choose another place (make VENV=DIR), or keep that stack and '
            'add MMToken to it with: pip install --no-deps -e .'
        )


def import_remedy(output: str) -> str:
    """What to do about a failed import, as far as its message tells."""
    if 'libGL.so' in output or 'libgthread' in output or 'libglib' in output:
        return 'OpenCV lacks a system library (Debian: apt-get install libgl1 libglib2.0-0)'
    if 'torchvision::nms' in output:
        return (
            'torch is a CPU-only build and torchvision is not; see where the pip configuration '
            'finds torch (pip config list), then choose a fresh place (make VENV=DIR)'
        )
    module = re.search(r"No module named '([\w.]+)'", output)
    if module and module.group(1).startswith('mmtoken'):
        return f'{module.group(1)} is not below projects/: is this checkout complete?'
    return 'run `make setup` again; if that does not help, choose a fresh place (make VENV=DIR)'
