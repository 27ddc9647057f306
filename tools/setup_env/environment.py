"""The virtual environment: its parts, and what its Python says about itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

LOG = 'mmtoken-setup.log'  # in the environment; marks a half-made one as ours

FACTS = """
import json, platform, sys, sysconfig
from importlib.util import find_spec
print(json.dumps(dict(
    executable=sys.executable, version=sys.version_info[:3], machine=platform.machine(),
    tag='cp%d%d' % sys.version_info[:2], include=sysconfig.get_path('include'),
    ensurepip=bool(find_spec('venv') and find_spec('ensurepip')))))
"""

INSTALLED = """
import json, re
from importlib.metadata import distributions
print(json.dumps({re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d.version
                  for d in distributions() if d.metadata['Name']}))
"""


def python_of(venv: Path) -> Path:
    """The interpreter of an environment."""
    return venv / 'bin' / 'python'


def ask(python: Path, program: str) -> dict:
    """Run a program that prints one JSON value under another Python."""
    output = subprocess.run(
        [str(python), '-c', program], stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(output.stdout)
