"""Running commands with their output in a log and progress on the terminal."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PIP = (sys.executable, '-I', '-m', 'pip')
LOG = Path(sys.prefix, 'mmtoken-setup.log')
INTERVAL = 30  # seconds between two lines of progress


def progress(line: str, seconds: float) -> str:
    """Turn a line of output from ninja or pip into a progress message, if it shows any."""
    if counter := re.match(r'\s*\[(\d+)/(\d+)\]', line):
        done, total = map(int, counter.groups())
        left = seconds / max(done, 1) * (total - done) / 60
        return f'compiled {done} of {total}, {seconds / 60:.1f} min, about {left:.0f} min left'
    action = re.match(r'\s*((?:Collecting|Downloading|Installing) \S+)', line)
    return f'{action[1]}, {seconds / 60:.1f} min' if action else ''


def run(*command: object) -> None:
    """Run a command; if it fails, exit with the last lines of its output."""
    words = [str(word) for word in command]
    pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # in a process group of its own, so that compilers are stopped as well
    options = dict(text=True, errors='replace', start_new_session=True)
    start = shown = time.monotonic()
    with open(LOG, 'a', buffering=1) as log, subprocess.Popen(words, **pipes, **options) as process:
        try:
            for line in process.stdout:
                log.write(line)
                now = time.monotonic()
                if now - shown >= INTERVAL and (message := progress(line, now - start)):
                    print(f'  {message}')
                    shown = now
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        tail = '\n'.join(LOG.read_text(errors='replace').splitlines()[-15:])
        failed = f'{" ".join(words)}\nfailed with exit code {process.returncode}'
        remedy = 'fix the cause and run the same make again to continue'
        raise SystemExit(f'{tail}\nset-up: {failed}, the full log is {LOG}; {remedy}')
