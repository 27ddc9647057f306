"""The set-up runs in order, uses cached wheels, continues and runs only once."""

import fcntl
import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from setup_env import refusals, shell, steps, wheels

ROOT = Path(__file__).resolve().parents[3]
PINS = {k: steps.read_sections((ROOT / file).read_text()) for k, file in steps.STACKS.items()}


@pytest.fixture(params=steps.STACKS)
def stack(request):
    return request.param


def test_every_requirement_is_pinned_with_a_reason(stack):
    lines = (ROOT / steps.STACKS[stack]).read_text().splitlines()
    lines = [line for line in lines if line and line[0] != '#']
    pins = [f'{name}=={pin}' for pins in PINS[stack].values() for name, pin in pins.items()]
    assert [line.split()[0] for line in lines] == pins
    assert all(re.search(r' # \w', line) for line in lines)
    assert set(PINS[stack]['source']) <= set(steps.COMPILED)
    assert PINS[stack]['dev'] == PINS['onedl']['dev']


def test_declared_floors_are_the_oldest_pins():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    everything = [item for pins in PINS.values() for s in pins.values() for item in s.items()]
    extras = project['optional-dependencies']
    for requirement in [*project['dependencies'], *extras['onedl'], *extras['official']]:
        name, floor = requirement.split('>=')
        pins = [pin for package, pin in everything if package == name]
        assert floor == min(pins, key=lambda pin: [int(part) for part in pin.split('.')]), name


def test_cache_folder_names_what_the_wheel_was_compiled_against(monkeypatch, tmp_path):
    pins = {'torch': '2.12.1', 'numpy': '2.2.6', 'mmcv': '2.1.0', 'xtcocotools': '1.14.3'}
    monkeypatch.setattr(sys, 'version_info', (3, 11))
    monkeypatch.setattr(wheels.platform, 'machine', lambda: 'x86_64')
    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path))
    monkeypatch.setenv('FORCE_CUDA', '1')
    for package, end in (('mmcv', 'cuda'), ('xtcocotools', 'numpy2.2')):
        name = f'{package}-{pins[package]}-torch2.12.1-cp311-x86_64-{end}'
        assert wheels.cache_folder(package, pins) == tmp_path / name


@pytest.fixture
def set_up(stack, tmp_path, monkeypatch):
    """Function that runs all steps with fake commands and returns those; can fail at one."""
    installed, commands, interrupt = {}, [], []
    for name in (steps.STACKS[stack], 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)

    def fake_run(*command):
        commands.append(' '.join(map(str, command)))
        with open(tmp_path / 'cache' / 'setup.lock') as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # others wait
        if interrupt and interrupt[0] in commands[-1]:
            raise KeyboardInterrupt
        if 'download' in command:
            sdist = command[command.index('-d') + 1]
            (tmp_path / 'package-1').mkdir(exist_ok=True)
            options = dict(root_dir=tmp_path, base_dir='package-1')
            shutil.make_archive(str(sdist / 'package-1'), 'gztar', **options)
        elif 'wheel' in command:
            folder = command[command.index('-w') + 1]
            folder.mkdir()
            (folder / f'{folder.parent.name.split("-")[0]}.whl').touch()
        elif 'install' in command:
            installed.update(word.split('==') for word in command if '==' in str(word))

    def run(interrupt_at=None):
        commands.clear()
        interrupt[:] = [interrupt_at] if interrupt_at else []
        steps.set_up(tmp_path, steps.STACKS[stack])
        return list(commands)

    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(os, 'environ', os.environ.copy())  # the steps set variables
    for module in (steps, wheels):
        monkeypatch.setattr(module, 'run', fake_run)
    monkeypatch.setattr(steps, 'installed', installed.get)
    monkeypatch.setattr(steps, 'STAMP', tmp_path / 'stamp')
    for name in ('check_compiler', 'check_disk'):
        monkeypatch.setattr(refusals, name, lambda *args: None)
    return run


def test_packages_are_installed_in_order_and_once(set_up, tmp_path):
    commands = set_up()
    order = ['torch==', 'mmpose==', 'import mmcv.ops', 'xtcocotools.mask', ' -e ', 'import mmpose']
    found = [next(i for i, line in enumerate(commands) if text in line) for text in order]
    assert found == sorted(found)
    assert sum(' wheel ' in line for line in commands) == 2
    assert not set_up()
    (tmp_path / 'pyproject.toml').write_text('changed')
    commands = set_up()
    assert ' -e ' in commands[-2]
    assert not [line for line in commands if '==' in line or ' wheel ' in line]


@pytest.mark.parametrize('step', [' wheel ', 'import mmpose'])
def test_interrupted_setup_continues(step, set_up, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        set_up(step)
    assert not (tmp_path / 'stamp').exists()
    assert bool(list(tmp_path.glob('cache/*/*.whl'))) == (step != ' wheel ')
    commands = set_up()
    assert not re.search('torch==|download.*mmcv==', '\n'.join(commands))
    assert (tmp_path / 'stamp').exists()


@pytest.mark.parametrize(
    'line, message',
    [
        ('  [20/80] c++ -MF a.d [1/2]', 'compiled 20 of 80, 2.0 min, about 6 min left'),
        ('  Downloading torch-2.12.1.whl (532 MB)', 'Downloading torch-2.12.1.whl, 2.0 min'),
        ('anything else', None),
    ],
)
def test_progress_of_a_compilation_and_a_download(line, message):
    assert shell.progress(line, 120) == message


def test_failing_command_shows_the_end_of_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(shell, 'LOG', tmp_path / 'log')
    with pytest.raises(SystemExit, match=r'(?s)line 39.*exit code 7, the full log is') as error:
        shell.run('sh', '-c', 'for i in $(seq 39); do echo line $i; done; exit 7')
    assert 'line 10\n' not in str(error.value)
    assert 'line 10\n' in shell.LOG.read_text()


def test_stopping_the_setup_stops_all_child_processes(tmp_path):
    program = (
        'import signal; from setup_env import shell; shell.LOG = "log"\n'
        'signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
        'shell.run("sh", "-c", "exec 3>alive; sleep 60 & sleep 0.2; kill -TERM $PPID; wait")\n'
    )
    os.mkfifo(tmp_path / 'alive')  # every child holds it open for writing
    alive = os.open(tmp_path / 'alive', os.O_RDONLY | os.O_NONBLOCK)
    environ = {**os.environ, 'PYTHONPATH': str(ROOT / 'tools')}
    command = [sys.executable, '-c', program]
    result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=30)
    assert b'KeyboardInterrupt' in result.stderr
    assert select.select([alive], [], [], 5)[0], 'a child process is still running'
    os.close(alive)
