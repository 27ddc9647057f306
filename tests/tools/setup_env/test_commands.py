"""The command line, the lock and the commands the set-up runs."""

import fcntl
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from setup_env import __main__ as cli
from setup_env.shell import progress, run

ROOT = Path(__file__).resolve().parents[3]


def test_wrong_python_is_refused_first(monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 9, 2))
    monkeypatch.setattr(sys, 'argv', ['setup_env', '--help'])
    with pytest.raises(SystemExit, match=r'got 3\.9'):
        cli.main()


@pytest.mark.parametrize('python', ['/bin/false', ''])
def test_make_refuses_a_wrong_python(python):
    command = ['make', '-s', 'setup', f'PYTHON={python}']
    make = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert make.returncode
    assert 'make PYTHON=/path/to/python3.11' in make.stderr


def test_folder_runs_as_a_command(tmp_path):
    command = [sys.executable, ROOT / 'tools' / 'setup_env', '--help']
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert '[--venv VENV] [--python-chosen]' in result.stdout, result.stderr


def test_second_setup_waits_for_the_first(tmp_path, monkeypatch, capsys):
    class Setup:
        def __init__(self, root, venv):
            self.run = started.set

    started = threading.Event()
    monkeypatch.setattr(cli, 'Setup', Setup)
    monkeypatch.setenv('MMTOKEN_WHEEL_CACHE', str(tmp_path))
    thread = threading.Thread(target=cli.set_up, args=(tmp_path / 'venv',))
    with open(tmp_path / 'setup.lock', 'w') as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        thread.start()
        assert not started.wait(0.3)
    thread.join(10)
    assert started.is_set()
    assert 'waiting for another set-up' in capsys.readouterr().out


def test_progress_of_a_compilation_and_a_download():
    message = 'compiled 20 of 80, 2:00, about 6 min left'
    assert progress('  [20/80] c++ -MMD -MF a.o.d [1/2]\n', 120) == message
    line = '  Downloading https://host/a/torch-2.12.1-cp311.whl (532 MB)\n'
    assert progress(line, 62) == 'downloading torch-2.12.1-cp311.whl, 1:02'
    assert progress('anything else\n', 1) is None


def test_failing_command_shows_the_end_of_its_log(tmp_path):
    program = 'import sys\nfor i in range(40): print("line", i)\nsys.exit(7)'
    with pytest.raises(SystemExit, match=r'(?s)line 39.*exit code 7, the full log is') as error:
        run((sys.executable, '-c', program), tmp_path / 'log', dict(os.environ))
    assert 'line 10\n' not in str(error.value)
    assert 'line 10\n' in (tmp_path / 'log').read_text()


def test_stopping_the_setup_stops_all_child_processes(tmp_path):
    program = (
        'import os, signal, threading, time\n'
        'from setup_env.shell import run\n'
        'def stop():\n'
        '    while not os.path.exists("started"): time.sleep(0.01)\n'
        '    os.kill(os.getpid(), signal.SIGTERM)\n'
        'signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
        'threading.Thread(target=stop).start()\n'
        'shell = ("sh", "-c", "exec 3>alive; sleep 60 & touch started; wait")\n'
        'run(shell, "log", dict(os.environ))\n'
    )
    os.mkfifo(tmp_path / 'alive')  # every child holds it open for writing
    alive = os.open(tmp_path / 'alive', os.O_RDONLY | os.O_NONBLOCK)
    environ = {**os.environ, 'PYTHONPATH': str(ROOT / 'tools')}
    command = [sys.executable, '-c', program]
    result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=30)
    assert b'KeyboardInterrupt' in result.stderr
    assert select.select([alive], [], [], 5)[0], 'a child process is still running'
    os.close(alive)
