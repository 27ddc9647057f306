"""Set up MMToken and a pinned stack in one virtual environment; `make` calls it first.

python3.11 tools/setup_env [--venv DIR] [--stack official]

The sections of the stack's requirements file are installed in order, then this checkout in
editable mode. Packages without a suitable wheel on the index are compiled once and kept in a
per-user cache. A run skips everything already installed, so an interrupted set-up continues where
it stopped. Standard library only.
"""

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

parser = argparse.ArgumentParser(prog='python tools/setup_env', description='Set up MMToken.')
parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='default: .venv')
parser.add_argument('--stack', choices=list(STACKS), default='onedl', help='default: onedl')
parser.add_argument('--python-chosen', action='store_true', help='allow no other version')
parser.add_argument('--wanted', help=argparse.SUPPRESS)  # set in the environment's Python
args = parser.parse_args()
sys.stdout.reconfigure(line_buffering=True)  # in order with what other commands print
signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the commands, as on Ctrl-C
try:
    if args.wanted is None:  # create the environment, then start again in its Python
        version = refusals.check_python(sys.executable)
        refusals.check_folder(args.venv)
        if not (args.venv / 'bin' / 'pip').exists():
            print(f'set-up: creating {args.venv}')
            subprocess.check_call([sys.executable, '-m', 'venv', args.venv])
        python = str(args.venv.absolute() / 'bin' / 'python')
        wanted = version if args.python_chosen else ''
        os.execv(python, [python, '-I', *sys.argv, '--wanted', wanted])
    refusals.check_python(sys.prefix, args.wanted)
    set_up(ROOT, STACKS[args.stack])
except KeyboardInterrupt:
    sys.exit('\nset-up: interrupted; run the same make again to continue')
except (OSError, subprocess.CalledProcessError) as error:
    sys.exit(f'set-up: {error}; fix this and run the same make again')
print(f'set-up: {sys.prefix} is ready')
