"""Required and installed packages, and the stamp of a finished environment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

LOG = 'mmtoken-setup.log'  # in the environment; also marks an unfinished one as ours
STAMP = 'mmtoken-setup.stamp'
FACTS = """
import json, platform, re, sys, sysconfig
from importlib.metadata import distributions
print(json.dumps(dict(
    tag='cp%d%d' % sys.version_info[:2], machine=platform.machine(),
    include=sysconfig.get_path('include'),
    installed={re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version
               for d in distributions() if d.metadata['Name']})))
"""


def query(python: Path | str) -> dict:
    """Ask an interpreter for its platform and its installed packages."""
    return json.loads(subprocess.check_output([str(python), '-c', FACTS]))


def read_sections(text: str) -> dict[str, dict[str, str]]:
    """Parse requirements.txt into ``{section: {package: version}}``."""
    sections = re.findall(r'(?ms)^# \[([\w-]+)\](.*?)(?=^# \[|\Z)', text)
    return {name: dict(re.findall(r'(?m)^([\w.-]+)==([\w.]+)', lines)) for name, lines in sections}


def missing_pins(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    """List the pins that are not installed, ignoring local versions such as 2.12.1+cu130."""
    return [
        f'{name}=={version}'
        for name, version in pins.items()
        if installed.get(name, '').split('+')[0] != version
    ]


def stamp_key(root: Path, venv: Path) -> str:
    """Hash everything that determines the contents of the environment."""
    digest = hashlib.sha256(str(root).encode())  # target of the editable install
    files = [root / 'requirements.txt', root / 'pyproject.toml', venv / 'pyvenv.cfg']
    for path in files + sorted((root / 'tools' / 'setup_env').glob('*.py')):
        digest.update(path.read_bytes() + b'\0')
    return digest.hexdigest()


def is_finished(root: Path, venv: Path) -> bool:
    """Return whether an earlier run completed and nothing has changed since."""
    try:
        stamp = (venv / STAMP).read_text()
        return stamp == stamp_key(root, venv) and os.access(venv / 'bin' / 'python', os.X_OK)
    except OSError:  # a file is missing
        return False
