"""Every refusal names the rule, the finding and the remedy; `make` passes any path."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from setup_env import refusals

ROOT = Path(__file__).resolve().parents[3]
UNSUPPORTED = r'needs Python 3\.10 to 3\.12, got {} \(here\); .*PYTHON=python3\.11'


@pytest.mark.parametrize(
    'version, cxx, check, arguments, message',
    [
        *(((3, n), '', 'python', ['here'], UNSUPPORTED.format(f'3.{n}')) for n in (9, 13)),
        ((3, 11), '', 'python', ['here', '3.12'], r'here uses Python 3\.11, but .* 3\.12; .*VENV='),
        ((3, 11), '', 'folder', [ROOT], 'not a virtual environment .*VENV=DIR'),
        ((3, 11), '', 'folder', [ROOT / 'Makefile'], 'not a virtual environment .*VENV=DIR'),
        ((3, 11), 'nocc', 'compiler', [['mmcv']], 'mmcv needs nocc, .* build-essential'),
        ((3, 11), 'true', 'compiler', [['mmcv']], r'mmcv needs /absent/Python\.h, .* absent-dev'),
        ((3, 11), '', 'disk', ['/venv', 6, 'VENV'], r'/venv needs 6 GB .* got 5\.9; .*VENV=DIR'),
        ((3, 11), 'nocc', 'compiler', [[]], None),
        ((3, 11), '', 'disk', ['/venv', 5, 'VENV'], None),
        ((3, 11), '', 'python', ['here', '3.11'], None),
        ((3, 11), '', 'folder', [Path(sys.prefix)], None),
        ((3, 11), '', 'folder', [ROOT / 'absent'], None),
    ],
)
def test_machines(version, cxx, check, arguments, message, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', version)
    monkeypatch.setattr(refusals.shutil, 'disk_usage', lambda _: SimpleNamespace(free=5.9e9))
    monkeypatch.setattr(refusals.sysconfig, 'get_path', lambda _: '/absent')
    monkeypatch.setenv('CXX', cxx)
    with pytest.raises(SystemExit, match=message) if message else nullcontext():
        getattr(refusals, f'check_{check}')(*arguments)


def test_environment_of_a_removed_python(tmp_path):
    refusals.check_folder(tmp_path)  # empty
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match=r'/gone/python3\.11, which no longer exists'):
        refusals.check_folder(tmp_path)


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_without_a_python(python):
    command = ['make', '-s', 'setup', f'PYTHON={python}']
    make = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert make.returncode and 'make PYTHON=/path/to/python3.11' in make.stderr


def test_make_quotes_its_paths(tmp_path):
    python = tmp_path / "anyone's env" / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    command = ['make', '-s', 'demo', f'VENV={python.parents[1]}', f'PYTHON={python}']
    output = subprocess.check_output([*command, 'STACK=official'], cwd=ROOT, text=True)
    setup = f'tools/setup_env --venv {python.parents[1]} --stack official --python-chosen'
    assert output.splitlines()[1:] == [setup, 'tools/demo.py']


@pytest.mark.parametrize('stack, found', [('onedl', 'mmdet'), ('official', 'onedl-mmcv')])
def test_conflicting_packages_inside_the_environment(stack, found, tmp_path):
    venv = tmp_path / 'my env'
    subprocess.check_call([sys.executable, '-m', 'venv', '--without-pip', venv])
    (venv / 'bin' / 'pip').touch()
    packages = next(venv.glob('lib/*/site-packages'))
    metadata = packages / f'{found.replace("-", "_")}-3.3.0.dist-info' / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text(f'Name: {found}\nVersion: 3.3.0\n')
    command = [sys.executable, ROOT / 'tools' / 'setup_env', '--venv', venv, '--stack', stack]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f'{venv} contains {found} 3.3.0, which the pinned packages would' in result.stderr
