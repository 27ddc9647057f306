"""Checks that stop the set-up before it does any work; each message names the remedy."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

MOVE = 'move it away or choose another path: make VENV=DIR'


def check_python(source: str, wanted: str = '') -> None:
    """Refuse to run in a Python outside the range of the stacks or not of the wanted version."""
    version = '{}.{}'.format(*sys.version_info)
    if version not in ('3.10', '3.11', '3.12'):
        raise SystemExit(
            f'set-up: MMToken needs Python 3.10 to 3.12, got {version} ({source}); '
            'choose another one: make PYTHON=python3.11 VENV=.venv311'
        )
    if wanted and version != wanted:
        raise SystemExit(
            f'set-up: {source} uses Python {version}, but PYTHON= is Python {wanted}; {MOVE}'
        )


def check_folder(venv: Path) -> None:
    """Refuse a path that exists and is not a virtual environment."""
    python = venv / 'bin' / 'python'
    if python.is_symlink() and not python.exists():
        gone = os.readlink(python)
        raise SystemExit(f'set-up: {venv} needs the Python {gone}, which no longer exists; {MOVE}')
    new = not os.path.lexists(venv) or (venv.is_dir() and not any(venv.iterdir()))
    if not new and not (venv / 'pyvenv.cfg').exists():
        raise SystemExit(f'set-up: {venv} is not a virtual environment (no pyvenv.cfg); {MOVE}')


def check_conflicts(conflicts: list[str]) -> None:
    """Refuse an environment with packages whose files the pinned ones would overwrite."""
    if conflicts:
        raise SystemExit(
            f'set-up: {sys.prefix} contains {", ".join(conflicts)}, which the pinned packages '
            'would overwrite; choose another path (make VENV=DIR) or add MMToken to the existing '
            'stack: pip install --no-deps -e .'
        )


def check_compiler(packages: list[str]) -> None:
    """Refuse to compile packages without a C++ compiler or without the Python headers."""
    compiler = os.environ.get('CXX', 'c++').split()[0]
    header = Path(sysconfig.get_path('include'), 'Python.h')
    for name, found in ((compiler, shutil.which(compiler)), (header, header.exists())):
        if packages and not found:
            raise SystemExit(
                f'set-up: compiling {" and ".join(packages)} needs {name}, which does not exist; '
                f'install it (Debian: apt-get install build-essential {header.parent.name}-dev)'
            )


def check_disk(folder: str, size: float, variable: str) -> None:
    """Refuse if the disk of a folder has fewer GB of free space than are written to it."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < size:
        raise SystemExit(
            f'set-up: {folder} needs {size:.0f} GB of free space, got {free:.1f}; free some or '
            f'use another disk: make {variable}=DIR'
        )
