"""The set-up's decisions, without an environment, a network or a compiler."""

import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import setup_env

FACTS = dict(
    executable='/usr/bin/python3.11',
    version=[3, 11, 7],
    tag='cp311',
    machine='x86_64',
    include='/nowhere',
    ensurepip=True,
)
PINS = {'torch': '2.12.1', 'numpy': '2.2.6', 'onedl-mmcv': '2.3.6', 'xtcocotools': '1.14.3'}


@pytest.fixture
def checkout(tmp_path):
    """A finished checkout: the files that decide what is set up, and a stamped environment."""
    for name in ('requirements.txt', 'pyproject.toml', 'tools/setup_env.py', '.venv/pyvenv.cfg'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'version = 3.11.7 in {name}')
    python = setup_env.python_of(tmp_path / '.venv')
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    stamp(tmp_path)
    return tmp_path


def stamp(checkout):
    venv = checkout / '.venv'
    (venv / setup_env.STAMP).write_text(setup_env.stamp_key(checkout, venv))


def write_wheel(folder, name='a-1-py3-none-any.whl'):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / name, 'w') as wheel:
        wheel.writestr('a.py', '')
    return folder / name


# --- requirements.txt -------------------------------------------------------------------------


def test_sections_keep_their_order_and_drop_the_reasons():
    text = '# prose\n# [base] first\ntorch==2.12.1  # why\n\n# [source] then\na.b-c==1.0.post1\n'
    assert setup_env.read_sections(text) == {
        'base': {'torch': '2.12.1'},
        'source': {'a.b-c': '1.0.post1'},
    }


@pytest.mark.parametrize('line', ['numpy>=2.0', 'numpy'])
def test_only_exact_pins_are_taken(line):
    with pytest.raises(ValueError, match=f"exact pins .* got '{line}' in line 2; write NAME==VERS"):
        setup_env.read_sections(f'# [base]\n{line}\n')


def test_a_pin_outside_of_any_section_is_refused():
    with pytest.raises(ValueError, match="below a .* got 'six==1.17.0' in line 1"):
        setup_env.read_sections('six==1.17.0\n')


def test_the_shipped_requirements_fill_every_step_and_say_why():
    text = (setup_env.ROOT / 'requirements.txt').read_text()
    sections = setup_env.read_sections(text)
    assert list(sections) == ['base', 'source', 'no-deps', 'dev']
    assert set(sections['source']) == set(setup_env.COMPILED) == set(setup_env.DURATION)
    assert all('# ' in line for line in text.splitlines() if '==' in line)


def test_a_local_version_meets_its_public_pin():
    installed = {'torch': '2.12.1+cu130', 'numpy': '2.2.5'}
    assert setup_env.missing_pins(PINS, installed) == [
        'numpy==2.2.6',
        'onedl-mmcv==2.3.6',
        'xtcocotools==1.14.3',
    ]


def test_a_second_opencv_is_never_wanted():
    pins = {'opencv-python-headless': '4.12.0.88'}
    assert setup_env.missing_pins(pins, {'opencv-python': '5.0.0.93'}) == []
    assert setup_env.missing_pins(pins, {}) == ['opencv-python-headless==4.12.0.88']


# --- doing nothing twice ----------------------------------------------------------------------


def test_a_stamped_environment_is_finished(checkout):
    assert setup_env.is_finished(checkout, checkout / '.venv')


@pytest.mark.parametrize(
    'name', ['requirements.txt', 'pyproject.toml', 'tools/setup_env.py', '.venv/pyvenv.cfg']
)
def test_a_change_of_any_deciding_file_ends_that(checkout, name):
    (checkout / name).write_text('changed')
    assert not setup_env.is_finished(checkout, checkout / '.venv')


def test_another_checkout_is_not_finished_by_the_same_environment(checkout, tmp_path):
    assert setup_env.stamp_key(checkout, checkout / '.venv') == setup_env.stamp_key(
        checkout, checkout / '.venv'
    )
    other = tmp_path / 'other'
    (other / 'tools').mkdir(parents=True)
    for name in ('requirements.txt', 'pyproject.toml', 'tools/setup_env.py'):
        (other / name).write_text((checkout / name).read_text())
    assert not setup_env.is_finished(other, checkout / '.venv')


def test_a_stamp_alone_is_not_an_environment(checkout):
    (checkout / '.venv' / 'pyvenv.cfg').unlink()
    assert not setup_env.is_finished(checkout, checkout / '.venv')


def test_an_environment_without_stamp_or_python_is_not_finished(checkout):
    venv = checkout / '.venv'
    setup_env.python_of(venv).unlink()
    assert not setup_env.is_finished(checkout, venv)
    (venv / setup_env.STAMP).unlink()
    assert not setup_env.is_finished(checkout, venv)
    assert not setup_env.is_finished(checkout, checkout / 'nowhere')
    assert not setup_env.is_finished(checkout, checkout / 'pyproject.toml')


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize('version', [(2, 7), (3, 9), (3, 13), (4, 0)])
def test_a_python_outside_the_stack_is_refused(version):
    found = r'3\.10 to 3\.12, but /usr/bin/p is Python {}\.{};.*PYTHON=python3\.11'.format(*version)
    with pytest.raises(SystemExit, match=found):
        setup_env.check_python(version, '/usr/bin/p')


@pytest.mark.parametrize('version', [(3, 10), (3, 11, 7), (3, 12)])
def test_every_python_of_the_stack_is_taken(version):
    setup_env.check_python(version, 'here')


def test_the_other_python_of_an_environment_is_not_ignored(checkout):
    venv = checkout / '.venv'
    setup_env.check_same_python(venv, (3, 11))
    setup_env.check_same_python(checkout / 'nowhere', (3, 11))
    with pytest.raises(SystemExit, match=r'is Python 3\.12, but .* made with Python 3\.11; .*VENV'):
        setup_env.check_same_python(venv, (3, 12))


def test_only_a_virtual_environment_or_free_space_is_taken_as_venv(tmp_path, checkout):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').touch()
    (tmp_path / 'file').touch()
    for name in ('absent', 'empty', '.venv'):
        setup_env.check_venv_path(tmp_path / name)
    for name in ('mine', 'file'):
        with pytest.raises(SystemExit, match=f'{name} exists and is not a virtual env.*VENV=DIR'):
            setup_env.check_venv_path(tmp_path / name)
    assert (tmp_path / 'mine' / 'thesis.txt').exists()


def test_an_environment_whose_making_was_interrupted_is_taken(tmp_path):
    (tmp_path / setup_env.LOG).touch()
    (tmp_path / 'bin').mkdir()
    setup_env.check_venv_path(tmp_path)


def test_an_environment_of_a_python_that_is_gone_is_refused(checkout):
    python = setup_env.python_of(checkout / '.venv')
    python.unlink()
    python.symlink_to('/gone/python3.11')
    with pytest.raises(SystemExit, match='a Python that is gone .* points to /gone/python3.11'):
        setup_env.check_venv_path(checkout / '.venv')


def test_a_python_that_makes_no_environment_is_refused():
    with pytest.raises(SystemExit, match=r'/usr/bin/python3\.11 lacks.*install python3\.11-venv'):
        setup_env.check_interpreter({**FACTS, 'ensurepip': False})


def test_a_missing_compiler_is_refused_only_if_something_must_be_compiled(monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    setup_env.check_build_tools(FACTS, [], which=lambda name: None)
    with pytest.raises(SystemExit, match=r'onedl-mmcv must .*\(c\+\+ is not on .* build-essential'):
        setup_env.check_build_tools(FACTS, ['onedl-mmcv'], which=lambda name: None)


def test_missing_headers_are_refused():
    with pytest.raises(SystemExit, match=r'\(/nowhere/Python\.h\).*install python3\.11-dev'):
        setup_env.check_build_tools(FACTS, ['a', 'b'], which=lambda name: name)


def test_the_disk_is_summed_by_file_system(tmp_path):
    needs = [('torch', tmp_path / 'a' / 'b', 6 * 10**9), ('building', tmp_path, 10**9)]
    one_disk = dict(device_of=lambda path: 1)
    setup_env.check_disk(needs, free_on=lambda path: 7 * 10**9, **one_disk)
    with pytest.raises(
        SystemExit,
        match=r'7\.0 GB must be .*\(6\.0 for torch, 1\.0 for building\), but 6\.9 GB are.*TMPDIR=',
    ):
        setup_env.check_disk(needs, free_on=lambda path: 6.9e9, **one_disk)


def test_each_file_system_is_judged_by_its_own_room(tmp_path):
    (tmp_path / 'small').mkdir()
    needs = [('torch', tmp_path, 6 * 10**9), ('building', tmp_path / 'small', 10**9)]
    with pytest.raises(SystemExit, match=r'1\.0 GB must be free .*small \(1\.0 for building\)'):
        setup_env.check_disk(
            needs,
            device_of=lambda path: path.name,
            free_on=lambda path: 0.5e9 if path.name == 'small' else 9e9,
        )


def test_the_official_family_is_not_overwritten(tmp_path):
    setup_env.check_family({'onedl-mmengine': '0.10.12'}, tmp_path)
    with pytest.raises(SystemExit, match=r'has mmengine 0\.10\.7, mmdet 3\.3\.0, which.*VENV=DIR'):
        setup_env.check_family({'mmdet': '3.3.0', 'mmengine': '0.10.7'}, tmp_path)


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
    assert re.search(remedy, setup_env.import_remedy(output))


# --- the wheel cache --------------------------------------------------------------------------


def test_the_cache_is_outside_of_the_checkout_and_can_be_moved(tmp_path):
    assert setup_env.cache_root({}) == Path.home() / '.cache' / 'mmtoken' / 'wheels'
    assert setup_env.cache_root({'XDG_CACHE_HOME': '/c'}) == Path('/c/mmtoken/wheels')
    environ = {'XDG_CACHE_HOME': '/c', 'MMTOKEN_WHEEL_CACHE': str(tmp_path)}
    assert setup_env.cache_root(environ) == tmp_path


def test_a_key_names_all_that_the_wheel_was_compiled_against():
    assert setup_env.cache_key('onedl-mmcv', PINS, FACTS) == (
        'onedl-mmcv-2.3.6-torch2.12.1-cp311-x86_64'
    )
    assert setup_env.cache_key('onedl-mmcv', PINS, FACTS, cuda=True).endswith('x86_64-cuda')
    assert setup_env.cache_key('xtcocotools', PINS, FACTS) == (
        'xtcocotools-1.14.3-torch2.12.1-cp311-x86_64-numpy2.2'
    )


def test_a_wheel_is_published_whole_and_never_replaced(tmp_path):
    built = write_wheel(tmp_path / 'first')
    assert setup_env.cached_wheel(tmp_path / 'key') is None
    published = setup_env.publish(built.parent, tmp_path / 'key')
    assert published == tmp_path / 'key' / built.name
    assert not built.parent.exists()
    late = write_wheel(tmp_path / 'second', 'b-1-py3-none-any.whl')
    assert setup_env.publish(late.parent, tmp_path / 'key') == published


def test_a_build_without_a_wheel_is_not_published(tmp_path):
    (tmp_path / 'built').mkdir()
    with pytest.raises(SystemExit, match='left no wheel in .*built'):
        setup_env.publish(tmp_path / 'built', tmp_path / 'key')
    assert not (tmp_path / 'key').exists()


def test_a_damaged_wheel_is_named(tmp_path):
    wheel = write_wheel(tmp_path / 'key')
    os.truncate(wheel, 20)
    with pytest.raises(SystemExit, match=f'{wheel} is damaged; remove it: rm -r {wheel.parent}'):
        setup_env.cached_wheel(wheel.parent)


# --- running commands -------------------------------------------------------------------------


def test_progress_counts_objects_and_estimates_the_rest():
    progress = setup_env.Progress()
    assert progress.line(0.5) == 'working, 0:00'
    progress.feed('Collecting torch==2.12.1\n')
    assert progress.line(61) == 'collecting torch==2.12.1, 1:01'
    progress.feed('  Downloading https://host/a/torch-2.12.1-cp311.whl (532 MB)\n')
    assert progress.line(62) == 'downloading torch-2.12.1-cp311.whl, 1:02'
    progress.feed('Installing collected packages: a, b\n')
    assert progress.line(63) == 'installing the packages, 1:03'
    progress.feed('  [20/80] c++ -MMD -MF a.o.d [1/2]\n')
    assert progress.line(120) == 'compiled 20 of 80, 2:00, about 6 min left'


def test_the_output_of_a_command_is_logged_and_returned(tmp_path):
    shell = setup_env.Shell(tmp_path / 'log', dict(os.environ))
    assert shell.run([sys.executable, '-c', 'print("hello")']) == 'hello\n'
    assert (tmp_path / 'log').read_text().endswith('hello\n')


def test_a_failing_command_shows_its_end_and_the_log(tmp_path):
    shell = setup_env.Shell(tmp_path / 'log', dict(os.environ))
    program = 'import sys\nfor i in range(40): print("line", i)\nsys.exit(7)'
    with pytest.raises(SystemExit, match=r'(?s)line 39.*exit code 7:.*said is in .*log') as error:
        shell.run([sys.executable, '-c', program])
    assert 'line 10' not in str(error.value)


def test_stopping_the_set_up_stops_what_it_started(tmp_path):
    program = (
        'import os, pathlib, signal, sys, threading, setup_env\n'
        'shell = setup_env.Shell(pathlib.Path("log"), dict(os.environ))\n'
        'threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()\n'
        'shell.run(["sh", "-c", "sleep 1; touch went-on"])\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(setup_env.ROOT / 'tools')},
        capture_output=True,
    )
    assert run.returncode
    time.sleep(1)
    assert not (tmp_path / 'went-on').exists()


def test_a_lock_is_free_again_after_use(tmp_path, capsys):
    for _ in range(2):
        with setup_env.locked(tmp_path / 'new' / 'lock'):
            pass
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('arguments', [[], ['--venv', '.venv', '--help']])
def test_a_wrong_python_is_refused_before_anything_else(arguments, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 9, 2))
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', *arguments])
    with pytest.raises(SystemExit, match=r'is Python 3\.9'):
        setup_env.main()


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_refuses_a_wrong_python_with_a_remedy(python):
    make = subprocess.run(
        ['make', '-s', 'setup', f'PYTHON={python}'],
        cwd=setup_env.ROOT,
        capture_output=True,
        text=True,
    )
    assert make.returncode
    assert re.search(r'3\.1[02].*make PYTHON=/path/to/python3\.11', make.stderr)
