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


@pytest.mark.parametrize('stack', PINS)
def test_every_requirement_is_pinned_with_a_reason(stack):
    lines = (ROOT / steps.STACKS[stack]).read_text().splitlines()
    lines = [line for line in lines if line and line[0] != '#']
    pins = [f'{name}=={pin}' for pins in PINS[stack].values() for name, pin in pins.items()]
    assert [line.split()[0] for line in lines] == pins
    assert all(re.search(r' # \w', line) for line in lines)
    assert set(PINS[stack]['source']) <= set(steps.COMPILED)
    lacking = {'onnx', 'onnxscript', 'onnxruntime'} if stack == 'official' else set()  # torch 2.4
    dev = PINS['onedl']['dev']
    assert PINS[stack]['dev'] == {name: pin for name, pin in dev.items() if name not in lacking}


def test_declared_floors_are_the_oldest_pins():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    everything = [item for pins in PINS.values() for s in pins.values() for item in s.items()]
    extras = project['optional-dependencies']
    for requirement in [*project['dependencies'], *extras['onedl'], *extras['official']]:
        name, floor = requirement.split('>=')
        pins = [pin for package, pin in everything if package == name]
        assert floor == min(pins, key=lambda pin: [int(part) for part in pin.split('.')]), name


@pytest.fixture(params=PINS)
def set_up(request, tmp_path, monkeypatch):
    """Run all steps with fake commands and return those; the command with a word interrupts."""
    installed, commands, requirements = {}, [], steps.STACKS[request.param]
    for name in (requirements, 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)

    def fake_run(interrupt, *command):
        commands.append(' '.join(map(str, command)))
        with open(tmp_path / 'cache' / 'setup.lock') as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # others wait
        if interrupt in commands[-1]:
            raise KeyboardInterrupt
        if 'download' in command:
            (tmp_path / 'package-1').mkdir(exist_ok=True)
            name = command[command.index('-d') + 1] / 'package-1'
            shutil.make_archive(str(name), 'gztar', root_dir=tmp_path, base_dir='package-1')
        elif 'wheel' in command:
            folder = command[command.index('-w') + 1]
            folder.mkdir()
            (folder / 'package.whl').touch()
        else:
            installed.update(word.split('==') for word in command if '==' in str(word))

    def run(interrupt='nowhere'):
        commands.clear()
        for module in (steps, wheels):
            monkeypatch.setattr(module, 'run', lambda *command: fake_run(interrupt, *command))
        steps.set_up(tmp_path, requirements)
        return list(commands)

    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(os, 'environ', {**os.environ, 'FORCE_CUDA': '1'})  # the steps set more
    monkeypatch.setattr(steps, 'installed', lambda name: installed.get(name, ''))
    monkeypatch.setattr(steps, 'STAMP', tmp_path / 'stamp')
    for name in ('check_compiler', 'check_disk'):
        monkeypatch.setattr(refusals, name, lambda *args: None)
    return run


def test_packages_are_installed_in_order_and_once(set_up, tmp_path):
    commands = set_up()
    order = ['torch==', 'mmpose==', 'import mmcv.ops', 'xtcocotools.mask', ' -e ', 'import mmpose']
    found = [next(i for i, line in enumerate(commands) if text in line) for text in order]
    assert found == sorted(found)
    # the cache names what a wheel was compiled against
    mmcv, xtcocotools = sorted(path.parent.name for path in tmp_path.glob('cache/*/*.whl'))
    assert re.fullmatch(r'(onedl-)?mmcv-[\d.]+-torch[\d.]+-cp3\d+-\w+-cuda', mmcv)
    assert re.fullmatch(r'xtcocotools-[\d.]+-torch[\d.]+-cp3\d+-\w+-numpy\d\.\d+', xtcocotools)
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
    assert not re.search('torch==|download.*mmcv==', '\n'.join(set_up()))
    assert (tmp_path / 'stamp').exists()


def test_progress_of_a_compilation_and_a_download():
    compiled = shell.progress('  [20/80] c++ -MF a.d [1/2]', 120)
    assert compiled == 'compiled 20 of 80, 2.0 min, about 6 min left'
    loaded = shell.progress('  Downloading torch-2.12.1.whl (532 MB)', 120)
    assert loaded == 'Downloading torch-2.12.1.whl, 2.0 min'
    assert not shell.progress('anything else', 120)


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
