"""The stamp in a finished environment: it answers at once while nothing changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from setup_env.environment import python_of

STAMP = 'mmtoken-setup.stamp'  # in the environment


def stamp_key(root: Path, venv: Path) -> str:
    """Hash all that decides what the finished environment holds."""
    digest = hashlib.sha256(str(root).encode())  # the editable install points there
    for path in (
        root / 'requirements.txt',
        root / 'pyproject.toml',
        *sorted((root / 'tools' / 'setup_env').glob('*.py')),
        venv / 'pyvenv.cfg',  # names the Python version
    ):
        digest.update(path.read_bytes() + b'\0')
    return digest.hexdigest()


def is_finished(root: Path, venv: Path) -> bool:
    """Whether an earlier run finished this very environment."""
    try:
        stamp = (venv / STAMP).read_text().strip()
        return stamp == stamp_key(root, venv) and os.access(str(python_of(venv)), os.X_OK)
    except OSError:  # a file is missing
        return False
