"""Checks that stop the set-up before it does any work; each message names the remedy."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from setup_env.environment import LOG

# distributions that write the same import folders as the pinned packages
CONFLICTS = ('mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation')
CONFLICTS += ('opencv-python', 'opencv-contrib-python')
GB = 10**9


def check_python(version: tuple[int, ...], source: object) -> None:
    """Refuse a Python outside the range of the pinned stack."""
    if not (3, 10) <= version <= (3, 12):
        raise SystemExit(
            f'set-up: MMToken needs Python 3.10 to 3.12, got {version[0]}.{version[1]} ({source}); '
            'choose another one: make PYTHON=python3.11 VENV=.venv311'
        )


def check_venv(venv: Path, chosen: tuple[int, ...] | None = None) -> None:
    """Refuse a path that is not an environment of a supported (or the chosen) Python."""
    if not os.path.lexists(venv):
        return
    config, python = venv / 'pyvenv.cfg', venv / 'bin' / 'python'
    ours = config.exists() or (venv / LOG).exists()
    if not venv.is_dir() or (any(venv.iterdir()) and not ours):
        problem = 'exists and is not a virtual environment (no pyvenv.cfg)'
    elif python.is_symlink() and not python.exists():
        problem = f'needs the Python {os.readlink(python)}, which no longer exists'
    else:
        text = config.read_text() if config.exists() else ''
        match = re.search(r'(?m)^version\w* *= *(\d+)\.(\d+)', text)
        version = tuple(map(int, match.groups())) if match else chosen
        if match:
            check_python(version, venv)
        if chosen in (None, version):
            return
        problem = 'uses Python {}.{}, but PYTHON= is Python {}.{}'.format(*version, *chosen)
    raise SystemExit(
        f'set-up: {venv} {problem}; move it away or choose another path: make VENV=DIR'
    )


def check_conflicts(installed: dict[str, str], venv: Path) -> None:
    """Refuse an environment with packages whose files the pinned ones would overwrite."""
    found = [f'{name} {installed[name]}' for name in CONFLICTS if name in installed]
    if found:
        raise SystemExit(
            f'set-up: {venv} contains {", ".join(found)}, which the pinned packages would '
            'overwrite; choose another path (make VENV=DIR) or add MMToken to the existing stack: '
            'pip install --no-deps -e .'
        )


def check_build_tools(include: str, packages: list[str]) -> None:
    """Refuse to compile without a C++ compiler or without the Python headers."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    header = Path(include) / 'Python.h'
    for found, name, debian in (
        (shutil.which(compiler), compiler, 'build-essential'),
        (header.exists(), header, f'{Path(include).name}-dev'),
    ):
        if packages and not found:
            raise SystemExit(
                f'set-up: compiling {" and ".join(packages)} needs {name}, which does not exist; '
                f'install it (Debian: apt-get install {debian})'
            )


def check_disk(needs: list[tuple[Path, int]]) -> None:
    """Refuse if a file system has less free space than the sum of everything written to it."""
    required: dict[int, int] = {}
    for path, size in needs:
        while not path.exists():
            path = path.parent
        device = os.stat(path).st_dev
        required[device] = required.get(device, 0) + size
        free = shutil.disk_usage(path).free
        if free < required[device]:
            raise SystemExit(
                f'set-up: the disk of {path} needs {required[device] / GB:.1f} GB of free space, '
                f'got {free / GB:.1f}; free some or use another disk with VENV=, '
                'MMTOKEN_WHEEL_CACHE= or TMPDIR='
            )
