"""Every refusal names the rule, the finding and the remedy; `make` passes any path."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from setup_env import refusals

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    'check, arguments, message',
    [
        (refusals.check_python, ['here', '3.12'], r'here uses Python 3\.11, but .* 3\.12; .*VENV='),
        (refusals.check_folder, [ROOT], 'not a virtual environment .*VENV=DIR'),
        (refusals.check_folder, [ROOT / 'Makefile'], 'not a virtual environment .*VENV=DIR'),
        (refusals.check_compiler, [['mmcv']], 'mmcv needs no-such-compiler, .* build-essential'),
        (refusals.check_disk, ['/venv', 6, 'VENV'], r'/venv needs 6 GB .* got 5\.9; .*VENV=DIR'),
    ],
)
def test_unsuitable_machines(check, arguments, message, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 11))
    monkeypatch.setattr(refusals.shutil, 'disk_usage', lambda _: SimpleNamespace(free=5.9e9))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(SystemExit, match=message):
        check(*arguments)


@pytest.mark.parametrize('version', ['3.9', '3.13', '4.0'])
def test_unsupported_python(version, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', version.split('.'))
    message = rf'needs Python 3\.10 to 3\.12, got {version} \(here\); .*PYTHON=python3\.11'
    with pytest.raises(SystemExit, match=message):
        refusals.check_python('here')


def test_missing_header_matters_to_compilations_only(monkeypatch):
    monkeypatch.setattr(refusals.sysconfig, 'get_path', lambda name: '/absent')
    monkeypatch.setenv('CXX', 'true')
    with pytest.raises(SystemExit, match=r'mmcv needs /absent/Python\.h, .* absent-dev'):
        refusals.check_compiler(['mmcv'])
    refusals.check_compiler([])


def test_suitable_machines(tmp_path):
    refusals.check_python('here')
    refusals.check_python('here', '{}.{}'.format(*sys.version_info))
    refusals.check_folder(tmp_path)
    refusals.check_folder(tmp_path / 'absent')
    refusals.check_folder(Path(sys.prefix))
    refusals.check_disk(tmp_path, 0, 'TMPDIR')


def test_environment_of_a_removed_python(tmp_path):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match=r'/gone/python3\.11, which no longer exists'):
        refusals.check_folder(tmp_path)


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_without_a_python(python):
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


@pytest.mark.parametrize(
    'stack, package', [('onedl', 'mmdet 3.3.0'), ('official', 'onedl-mmcv 2.3.6')]
)
def test_conflicting_packages_inside_the_environment(stack, package, tmp_path):
    venv = tmp_path / 'my env'
    subprocess.check_call([sys.executable, '-m', 'venv', '--without-pip', venv])
    (venv / 'bin' / 'pip').touch()
    name, version = package.split()
    folder = f'{name.replace("-", "_")}-{version}.dist-info'
    metadata = next(venv.glob('lib/*/site-packages')) / folder / 'METADATA'
    metadata.parent.mkdir()
    metadata.write_text(f'Name: {name}\nVersion: {version}\n')
    command = [sys.executable, ROOT / 'tools' / 'setup_env', '--venv', venv, '--stack', stack]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f'{venv} contains {package}, which the pinned packages would' in result.stderr
