"""A Python and a finished checkout, as the set-up sees them."""

import sys
from pathlib import Path

import pytest
from setup_env.environment import python_of
from setup_env.stamp import STAMP, stamp_key

SOURCES = ('requirements.txt', 'pyproject.toml', 'tools/setup_env/steps.py')


@pytest.fixture
def facts() -> dict:
    """What a Python says about itself."""
    return dict(
        executable='/usr/bin/python3.11',
        version=[3, 11, 7],
        tag='cp311',
        machine='x86_64',
        include='/nowhere',
        ensurepip=True,
    )


@pytest.fixture
def pins() -> dict[str, str]:
    return {'torch': '2.12.1', 'numpy': '2.2.6', 'onedl-mmcv': '2.3.6', 'xtcocotools': '1.14.3'}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A finished checkout: the files that decide what is set up, and a stamped environment."""
    for name in (*SOURCES, '.venv/pyvenv.cfg'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'version = 3.11.7 in {name}')
    venv = tmp_path / '.venv'
    python = python_of(venv)
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (venv / STAMP).write_text(stamp_key(tmp_path, venv))
    return tmp_path
