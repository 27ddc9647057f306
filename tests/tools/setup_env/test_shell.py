"""Commands are logged, fail with their end, and stop with the set-up."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from setup_env.shell import Shell

TOOLS = Path(__file__).resolve().parents[3] / 'tools'


def test_the_output_of_a_command_is_logged_and_returned(tmp_path):
    shell = Shell(tmp_path / 'log', dict(os.environ))
    assert shell.run([sys.executable, '-c', 'print("hello")']) == 'hello\n'
    assert (tmp_path / 'log').read_text().endswith('hello\n')


def test_a_failing_command_shows_its_end_and_the_log(tmp_path):
    shell = Shell(tmp_path / 'log', dict(os.environ))
    program = 'import sys\nfor i in range(40): print("line", i)\nsys.exit(7)'
    with pytest.raises(SystemExit, match=r'(?s)line 39.*exit code 7:.*said is in .*log') as error:
        shell.run([sys.executable, '-c', program])
    assert 'line 10' not in str(error.value)


def test_stopping_the_set_up_stops_all_that_it_started(tmp_path):
    program = (
        'import os, pathlib, signal, threading, time\n'
        'from setup_env.shell import Shell\n'
        'def stop():\n'
        '    while not os.path.exists("started"): time.sleep(0.01)\n'
        '    signal.raise_signal(signal.SIGTERM)\n'
        'signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
        'threading.Thread(target=stop).start()\n'
        'Shell(pathlib.Path("log"), dict(os.environ)).run(\n'
        '    ["sh", "-c", "sleep 60 & touch started; wait"])\n'
    )
    end, held = os.pipe()  # inherited by all that is started: at its end when all have ended
    run = subprocess.run(
        [sys.executable, '-c', program],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(TOOLS)},
        pass_fds=[held],
        capture_output=True,
    )
    os.close(held)
    assert b'KeyboardInterrupt' in run.stderr
    assert select.select([end], [], [], 10)[0], 'something is still running'
    os.close(end)
