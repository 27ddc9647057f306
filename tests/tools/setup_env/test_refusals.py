"""Each refusal names the rule, what was found and the remedy."""

import re

import pytest
from setup_env import refusals
from setup_env.environment import LOG, python_of


@pytest.mark.parametrize('version', [(2, 7), (3, 9), (3, 13), (4, 0)])
def test_a_python_outside_the_stack_is_refused(version):
    found = r'3\.10 to 3\.12, but /usr/bin/p is Python {}\.{};.*PYTHON=python3\.11'.format(*version)
    with pytest.raises(SystemExit, match=found):
        refusals.check_python(version, '/usr/bin/p')


@pytest.mark.parametrize('version', [(3, 10), (3, 11, 7), (3, 12)])
def test_every_python_of_the_stack_is_taken(version):
    refusals.check_python(version, 'here')


def test_the_other_python_of_an_environment_is_not_ignored(checkout):
    venv = checkout / '.venv'
    refusals.check_same_python(venv, (3, 11))
    refusals.check_same_python(checkout / 'nowhere', (3, 11))
    with pytest.raises(SystemExit, match=r'is Python 3\.12, but .* made with Python 3\.11; .*VENV'):
        refusals.check_same_python(venv, (3, 12))


def test_only_a_virtual_environment_or_free_space_is_taken_as_venv(tmp_path, checkout):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').touch()
    (tmp_path / 'file').touch()
    for name in ('absent', 'empty', '.venv'):
        refusals.check_venv_path(tmp_path / name)
    for name in ('mine', 'file'):
        with pytest.raises(SystemExit, match=f'{name} exists and is not a virtual env.*VENV=DIR'):
            refusals.check_venv_path(tmp_path / name)
    assert (tmp_path / 'mine' / 'thesis.txt').exists()


def test_an_environment_whose_making_was_interrupted_is_taken(tmp_path):
    (tmp_path / LOG).touch()
    (tmp_path / 'bin').mkdir()
    refusals.check_venv_path(tmp_path)


def test_an_environment_of_a_python_that_is_gone_is_refused(checkout):
    python = python_of(checkout / '.venv')
    python.unlink()
    python.symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match='a Python that is gone .* points to /gone/python3.11'):
        refusals.check_venv_path(checkout / '.venv')


def test_a_python_that_makes_no_environment_is_refused(facts):
    with pytest.raises(SystemExit, match=r'/usr/bin/python3\.11 lacks.*install python3\.11-venv'):
        refusals.check_interpreter({**facts, 'ensurepip': False})


def test_a_missing_compiler_is_refused_only_if_something_must_be_compiled(facts, monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    refusals.check_build_tools(facts, [], which=lambda name: None)
    with pytest.raises(SystemExit, match=r'onedl-mmcv must .*\(c\+\+ is not on .* build-essential'):
        refusals.check_build_tools(facts, ['onedl-mmcv'], which=lambda name: None)


def test_missing_headers_are_refused(facts):
    with pytest.raises(SystemExit, match=r'\(/nowhere/Python\.h\).*install python3\.11-dev'):
        refusals.check_build_tools(facts, ['a', 'b'], which=lambda name: name)


def test_the_disk_is_summed_by_file_system(tmp_path):
    needs = [('torch', tmp_path / 'a' / 'b', 6 * 10**9), ('building', tmp_path, 10**9)]
    one_disk = dict(device_of=lambda path: 1)
    refusals.check_disk(needs, free_on=lambda path: 7 * 10**9, **one_disk)
    with pytest.raises(
        SystemExit,
        match=r'7\.0 GB must be .*\(6\.0 for torch, 1\.0 for building\), but 6\.9 GB are.*TMPDIR=',
    ):
        refusals.check_disk(needs, free_on=lambda path: 6.9e9, **one_disk)


def test_each_file_system_is_judged_by_its_own_room(tmp_path):
    (tmp_path / 'small').mkdir()
    needs = [('torch', tmp_path, 6 * 10**9), ('building', tmp_path / 'small', 10**9)]
    with pytest.raises(SystemExit, match=r'1\.0 GB must be free .*small \(1\.0 for building\)'):
        refusals.check_disk(
            needs,
            device_of=lambda path: path.name,
            free_on=lambda path: 0.5e9 if path.name == 'small' else 9e9,
        )


def test_the_official_family_is_not_overwritten(tmp_path):
    refusals.check_family({'onedl-mmengine': '0.10.12'}, tmp_path)
    with pytest.raises(SystemExit, match=r'has mmengine 0\.10\.7, mmdet 3\.3\.0, which.*VENV=DIR'):
        refusals.check_family({'mmdet': '3.3.0', 'mmengine': '0.10.7'}, tmp_path)


@pytest.mark.parametrize(
    'output, remedy',
    [
        ('ImportError: libGL.so.1: cannot open shared object', 'apt-get install libgl1'),
        ("ModuleNotFoundError: No module named 'mmtoken.common'", r'mmtoken\.common is not below'),
        ('operator torchvision::nms does not exist', 'torch is a CPU-only build'),
        ('Segmentation fault', 'VENV=DIR'),
    ],
)
def test_a_failed_import_comes_with_a_remedy(output, remedy):
    assert re.search(remedy, refusals.import_remedy(output))
