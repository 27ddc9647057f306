"""The command line, and make in front of it: a wrong Python is refused before anything else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from setup_env.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / 'tools' / 'setup_env'


@pytest.mark.parametrize('arguments', [[], ['--venv', '.venv', '--help']])
def test_a_wrong_python_is_refused_before_anything_else(arguments, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 9, 2))
    monkeypatch.setattr(sys, 'argv', ['setup_env', *arguments])
    with pytest.raises(SystemExit, match=r'is Python 3\.9'):
        main()


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_refuses_a_wrong_python_with_a_remedy(python):
    make = subprocess.run(
        ['make', '-s', 'setup', f'PYTHON={python}'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert make.returncode
    assert re.search(r'3\.1[02].*make PYTHON=/path/to/python3\.11', make.stderr)


@pytest.mark.parametrize('path', sorted(PACKAGE.glob('*.py')), ids=lambda path: path.name)
def test_an_older_python_gets_as_far_as_the_refusal(path):
    """Syntax of Python 3.7 and its standard library, and nothing else, runs before it."""
    tree = ast.parse(path.read_text(), feature_version=(3, 7))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert {name.split('.')[0] for name in modules} <= {'setup_env', *sys.stdlib_module_names}


def test_the_folder_runs_as_a_command(tmp_path):
    run = subprocess.run(
        [sys.executable, PACKAGE, '--help'], cwd=tmp_path, capture_output=True, text=True
    )
    assert 'usage: python tools/setup_env [-h] [--venv VENV]' in run.stdout, run.stderr
