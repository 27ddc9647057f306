"""Command line: ``python3.11 tools/setup_env [--venv DIR]``."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

if not __package__:  # run as a folder: Python put the folder itself on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from setup_env.lock import locked
from setup_env.refusals import check_python, check_same_python
from setup_env.stamp import is_finished
from setup_env.steps import Setup
from setup_env.wheels import cache_root

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Read the command line, set up, say where."""
    check_python(sys.version_info, sys.executable)
    parser = argparse.ArgumentParser(
        prog='python tools/setup_env',
        description='Set up everything MMToken needs in one virtual environment.',
    )
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='default: .venv')
    parser.add_argument(
        '--python-chosen',
        action='store_true',
        help='refuse an existing environment of another Python version than the running one',
    )
    args = parser.parse_args()
    venv = Path(os.path.abspath(str(args.venv)))
    if args.python_chosen:
        check_same_python(venv, tuple(sys.version_info[:2]))
    if is_finished(ROOT, venv):
        print(f'set-up: {venv} is ready')
        return
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: stop the children, say how to go on
        signal.signal(number, signal.default_int_handler)
    start = time.monotonic()
    name = hashlib.sha256(str(venv).encode()).hexdigest()[:16]
    try:
        with locked(cache_root() / f'venv-{name}.lock'):
            Setup(ROOT, venv).run()
    except KeyboardInterrupt:
        raise SystemExit('\nset-up: interrupted; the same make goes on from here') from None
    except OSError as error:
        raise SystemExit(f'set-up: {error}; the same make goes on when that is mended') from error
    minutes = (time.monotonic() - start) / 60
    print(
        f'set-up: {venv} is ready after {minutes:.1f} min; to work in it: '
        f'source {venv}/bin/activate'
    )


if __name__ == '__main__':
    main()
