"""Every refusal names the rule, the finding and the remedy."""

import sys
from collections import namedtuple

import pytest
from setup_env import refusals
from setup_env.environment import LOG


@pytest.fixture
def venv(tmp_path):
    (tmp_path / 'venv' / 'bin').mkdir(parents=True)
    (tmp_path / 'venv' / 'pyvenv.cfg').write_text('home = /usr\nversion = 3.11.7\n')
    (tmp_path / 'venv' / 'bin' / 'python').symlink_to(sys.executable)
    return tmp_path / 'venv'


@pytest.mark.parametrize('version', [(2, 7), (3, 9), (3, 13), (4, 0)])
def test_unsupported_python_is_refused(version):
    message = r'3\.10 to 3\.12, got {}\.{} \(here\); .*PYTHON=python3\.11'.format(*version)
    with pytest.raises(SystemExit, match=message):
        refusals.check_python(version, 'here')


@pytest.mark.parametrize('version', [(3, 10), (3, 11), (3, 12)])
def test_supported_python_is_accepted(version):
    refusals.check_python(version, 'here')


def test_environment_of_another_python_is_refused(venv):
    refusals.check_venv(venv)
    refusals.check_venv(venv, (3, 11))
    with pytest.raises(SystemExit, match=r'uses Python 3\.11, but PYTHON= is Python 3\.12; .*VENV'):
        refusals.check_venv(venv, (3, 12))
    (venv / 'pyvenv.cfg').write_text('version_info = 3.9.2.final.0\n')
    with pytest.raises(SystemExit, match=r'got 3\.9'):
        refusals.check_venv(venv)


def test_folder_that_is_not_an_environment_is_refused(tmp_path):
    (tmp_path / 'thesis.txt').touch()
    for path in (tmp_path, tmp_path / 'thesis.txt'):
        with pytest.raises(SystemExit, match='not a virtual environment.*VENV=DIR'):
            refusals.check_venv(path)
    (tmp_path / 'empty').mkdir()
    for name in ('empty', 'absent'):
        refusals.check_venv(tmp_path / name)
    (tmp_path / LOG).touch()  # left by an interrupted set-up
    refusals.check_venv(tmp_path, (3, 11))


def test_environment_of_a_removed_python_is_refused(venv):
    (venv / 'bin' / 'python').unlink()
    (venv / 'bin' / 'python').symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match=r'/gone/python3\.11, which no longer exists'):
        refusals.check_venv(venv)


def test_conflicting_packages_are_refused(venv):
    refusals.check_conflicts({'onedl-mmengine': '0.10.12'}, venv)
    with pytest.raises(SystemExit, match=r'mmengine 0\.10\.7, mmdet 3\.3\.0, which.*VENV=DIR'):
        refusals.check_conflicts({'mmdet': '3.3.0', 'mmengine': '0.10.7'}, venv)


def test_missing_compiler_or_headers_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    include = tmp_path / 'python3.11'
    monkeypatch.setattr(refusals.shutil, 'which', lambda name: name)
    with pytest.raises(SystemExit, match=r'a and b needs .*Python\.h.* install python3\.11-dev'):
        refusals.check_build_tools(str(include), ['a', 'b'])
    include.mkdir()
    (include / 'Python.h').touch()
    refusals.check_build_tools(str(include), ['a'])
    monkeypatch.setattr(refusals.shutil, 'which', lambda name: None)
    with pytest.raises(SystemExit, match=r'a needs c\+\+, .* install build-essential'):
        refusals.check_build_tools(str(include), ['a'])
    refusals.check_build_tools(str(include), [])


def test_disk_space_is_summed_per_file_system(tmp_path, monkeypatch):
    usage = namedtuple('usage', 'free')
    needs = [(tmp_path / 'a' / 'b', 6 * 10**9), (tmp_path, 10**9)]
    monkeypatch.setattr(refusals.shutil, 'disk_usage', lambda path: usage(7 * 10**9))
    refusals.check_disk(needs)
    monkeypatch.setattr(refusals.shutil, 'disk_usage', lambda path: usage(6.9e9))
    with pytest.raises(SystemExit, match=r'needs 7\.0 GB of free space, got 6\.9; .*TMPDIR='):
        refusals.check_disk(needs)
