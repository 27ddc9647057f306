"""Checks that stop the set-up before it does any work; each message names the remedy."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

MOVE = 'move it away or choose another path: make VENV=DIR'


def refuse(wrong: object, message: str) -> None:
    """Stop the set-up with a message if something is wrong."""
    if wrong:
        raise SystemExit(f'set-up: {message}')


def check_python(source: str, wanted: str = '') -> str:
    """Return the version of this Python, if the stacks exist for it and it is the wanted one."""
    version = '{}.{}'.format(*sys.version_info)
    needed = f'MMToken needs Python 3.10 to 3.12, got {version} ({source}); choose another one: '
    refuse(version not in ('3.10', '3.11', '3.12'), needed + 'make PYTHON=python3.11 VENV=.venv311')
    chosen = f'{source} uses Python {version}, but PYTHON= is Python {wanted}; {MOVE}'
    refuse(wanted not in ('', version), chosen)
    return version


def check_folder(venv: Path) -> None:
    """Refuse a path that holds something else than a virtual environment."""
    python = venv / 'bin' / 'python'
    gone = python.is_symlink() and not python.exists() and os.readlink(python)
    refuse(gone, f'{venv} needs the Python {gone}, which no longer exists; {MOVE}')
    taken = venv.is_file() or (any(venv.glob('*')) and not (venv / 'pyvenv.cfg').exists())
    refuse(taken, f'{venv} is not a virtual environment (no pyvenv.cfg); {MOVE}')


def check_compiler(packages: list[str]) -> None:
    """Refuse to compile packages without a C++ compiler or without the Python headers."""
    compiler = (os.environ.get('CXX') or 'c++').split()[0]
    header = Path(sysconfig.get_path('include'), 'Python.h')
    for name, found in ((compiler, shutil.which(compiler)), (header, header.exists())):
        message = f'compiling {" and ".join(packages)} needs {name}, which does not exist; install '
        message += f'it (Debian: apt-get install build-essential {header.parent.name}-dev)'
        refuse(packages and not found, message)


def check_disk(folder: str, size: float, variable: str) -> None:
    """Refuse if the disk of a folder has fewer GB of free space than are written to it."""
    free = shutil.disk_usage(folder).free / 1e9
    message = f'{folder} needs {size:.0f} GB of free space, got {free:.1f}; free some or '
    refuse(free < size, f'{message}use another disk: make {variable}=DIR')
