"""Every refusal names the rule, the finding and the remedy; `make` passes any path."""

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from setup_env import refusals

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize('version', ['3.9', '3.13', '4.0'])
def test_unsupported_python_is_refused(version, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', tuple(map(int, version.split('.'))))
    message = rf'needs Python 3\.10 to 3\.12, got {version} \(here\); .*PYTHON=python3\.11'
    with pytest.raises(SystemExit, match=message):
        refusals.check_python('here')


def test_environment_of_another_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 11))
    refusals.check_python('here', '3.11')
    with pytest.raises(SystemExit, match=r'here uses Python 3\.11, but .* Python 3\.12; .*VENV='):
        refusals.check_python('here', '3.12')


def test_only_environments_and_empty_folders_are_accepted(tmp_path):
    refusals.check_folder(tmp_path)
    refusals.check_folder(tmp_path / 'absent')
    (tmp_path / 'thesis.txt').touch()
    for path in (tmp_path, tmp_path / 'thesis.txt'):
        with pytest.raises(SystemExit, match='not a virtual environment.*VENV=DIR'):
            refusals.check_folder(path)
    (tmp_path / 'pyvenv.cfg').touch()
    refusals.check_folder(tmp_path)
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match=r'/gone/python3\.11, which no longer exists'):
        refusals.check_folder(tmp_path)


@pytest.mark.parametrize('compiler, header', [('no-such-c++', True), ('true', False)])
def test_missing_compiler_or_header_is_refused(compiler, header, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', compiler)
    monkeypatch.setattr(refusals.sysconfig, 'get_path', lambda name: tmp_path)
    if header:
        (tmp_path / 'Python.h').touch()
    name = r'no-such-c\+\+' if header else r'.*Python\.h'
    with pytest.raises(SystemExit, match=rf'mmcv needs {name}, which .* install build-essential'):
        refusals.check_compiler(['mmcv'])
    refusals.check_compiler([])


def test_full_disk_is_refused(monkeypatch):
    usage = namedtuple('usage', 'free')
    monkeypatch.setattr(refusals.shutil, 'disk_usage', lambda folder: usage(5.9e9))
    refusals.check_disk('/tmp', 5, 'TMPDIR')
    with pytest.raises(SystemExit, match=r'/venv needs 6 GB of free space, got 5\.9; .*VENV=DIR'):
        refusals.check_disk('/venv', 6, 'VENV')


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_refuses_a_wrong_python(python):
    command = ['make', '-s', 'setup', f'PYTHON={python}']
    make = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert make.returncode
    assert 'make PYTHON=/path/to/python3.11' in make.stderr


def test_make_quotes_its_paths(tmp_path):
    python = tmp_path / "anyone's env" / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    venv = python.parents[1]
    command = ['make', '-s', 'demo', f'VENV={venv}', f'PYTHON={python}', 'STACK=official']
    output = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    setup = f'tools/setup_env --venv {venv} --stack official --python-chosen'
    assert output[1:] == [setup, 'tools/demo.py']


def test_conflicting_packages_are_refused_inside_the_environment(tmp_path):
    venv = tmp_path / 'my env'
    subprocess.check_call([sys.executable, '-m', 'venv', '--without-pip', venv])
    (venv / 'bin' / 'pip').touch()
    for name in ('mmdet-3.3.0', 'onedl_mmcv-2.3.6'):
        package = next(venv.glob('lib/*/site-packages')) / f'{name}.dist-info'
        package.mkdir()
        name, version = name.split('-')
        (package / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
    command = [sys.executable, ROOT / 'tools' / 'setup_env', '--venv', venv]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f'{venv} contains mmdet 3.3.0, which the pinned packages' in result.stderr
    result = subprocess.run([*command, '--stack', 'official'], capture_output=True, text=True)
    assert f'{venv} contains onedl-mmcv 2.3.6, which the pinned packages' in result.stderr
