"""Command line: ``python3.11 tools/setup_env [--venv DIR] [--stack official]``."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

if not __package__:  # run as a folder: Python put the folder itself on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from setup_env import refusals
from setup_env.steps import STACKS, set_up

ROOT = Path(__file__).resolve().parents[2]


def enter(venv: Path, wanted: str) -> None:
    """Create the environment if it is missing and start again in its Python."""
    refusals.check_python(sys.executable)
    refusals.check_folder(venv)
    if not (venv / 'bin' / 'pip').exists():
        print(f'set-up: creating {venv}')
        failed = subprocess.call([sys.executable, '-m', 'venv', venv])
        refusals.refuse(failed, 'python -m venv failed, see above')
    python = str(venv / 'bin' / 'python')
    os.execv(python, [python, '-I', *sys.argv, '--wanted', wanted])


parser = argparse.ArgumentParser(prog='python tools/setup_env', description='Set up MMToken.')
parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='default: .venv')
parser.add_argument('--stack', choices=list(STACKS), default='onedl', help='default: onedl')
parser.add_argument('--python-chosen', action='store_true', help='allow no other version')
parser.add_argument('--wanted', help=argparse.SUPPRESS)  # set in the environment's Python
args = parser.parse_args()
sys.stdout.reconfigure(line_buffering=True)  # in order with what other commands print
signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the commands, as on Ctrl-C
try:
    if args.wanted is None:
        version = '{}.{}'.format(*sys.version_info) if args.python_chosen else ''
        enter(Path(os.path.abspath(args.venv)), version)
    refusals.check_python(sys.prefix, args.wanted)
    set_up(ROOT, STACKS[args.stack])
except KeyboardInterrupt:
    sys.exit('\nset-up: interrupted; run the same make again to continue')
except OSError as error:
    sys.exit(f'set-up: {error}; fix this and run the same make again')
print(f'set-up: {sys.prefix} is ready')
