"""Running commands with their output in a log and a progress line on the terminal."""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def progress(line: str, seconds: float) -> str | None:
    """Turn a line of output from ninja or pip into a progress message, if it shows any."""
    clock = f'{int(seconds) // 60}:{int(seconds) % 60:02d}'
    counter = re.match(r'\s*\[(\d+)/(\d+)\]', line)
    if counter:
        done, total = map(int, counter.groups())
        left = seconds / max(done, 1) * (total - done) / 60
        return f'compiled {done} of {total}, {clock}, about {left:.0f} min left'
    action = re.match(r'\s*(Collecting|Downloading|Installing) (\S+)', line)
    if action:
        return f'{action.group(1).lower()} {action.group(2).split("/")[-1]}, {clock}'
    return None


def run(command: tuple, log: Path, environ: dict[str, str]) -> None:
    """Run a command; if it fails, exit with the last lines of its output."""
    start = shown = time.monotonic()
    # one changing line on a terminal, one line per minute in a CI log
    before, after, interval = ('\r\033[K', '', 0) if sys.stdout.isatty() else ('', '\n', 60)
    tail: collections.deque[str] = collections.deque(maxlen=15)
    with open(log, 'a', buffering=1) as file:
        print('$', *command, file=file)
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env=environ,
            start_new_session=True,  # a process group, so that compilers can be stopped as well
        )
        try:
            for line in process.stdout:
                file.write(line)
                tail.append(line)
                now = time.monotonic()
                message = progress(line, now - start)
                if message and now - shown >= interval:
                    print(f'{before}  {message}', end=after, flush=True)
                    shown = now
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            print(before, end='', flush=True)
    if process.returncode:
        raise SystemExit(
            f'{"".join(tail)}\nset-up: {" ".join(map(str, command))}\nfailed with exit code '
            f'{process.returncode}, the full log is {log}; fix the cause and run the same make '
            'again to continue'
        )
