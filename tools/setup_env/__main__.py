"""Command line: ``python3.11 tools/setup_env [--venv DIR]``."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from pathlib import Path

if not __package__:  # run as a folder: Python put the folder itself on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from setup_env.environment import is_finished
from setup_env.refusals import check_python, check_venv
from setup_env.steps import Setup
from setup_env.wheels import cache_root

ROOT = Path(__file__).resolve().parents[2]


def set_up(venv: Path) -> None:
    """Run one set-up at a time: all of them share the wheel cache."""
    lock = cache_root() / 'setup.lock'
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, 'a') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'set-up: waiting for another set-up to finish ({lock})', flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        Setup(ROOT, venv).run()


def main() -> None:
    """Parse the command line and run the set-up."""
    python = tuple(sys.version_info[:2])
    check_python(python, sys.executable)
    parser = argparse.ArgumentParser(prog='python tools/setup_env', description='Set up MMToken.')
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='default: .venv')
    text = 'refuse an existing environment of another Python version'
    parser.add_argument('--python-chosen', action='store_true', help=text)
    args = parser.parse_args()
    venv = Path(os.path.abspath(args.venv))
    check_venv(venv, python if args.python_chosen else None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the commands, as on Ctrl-C
    try:
        if not is_finished(ROOT, venv):
            set_up(venv)
    except KeyboardInterrupt:
        raise SystemExit('\nset-up: interrupted; run the same make again to continue') from None
    except OSError as error:
        raise SystemExit(f'set-up: {error}; fix this and run the same make again') from error
    print(f'set-up: {venv} is ready')


if __name__ == '__main__':
    main()
