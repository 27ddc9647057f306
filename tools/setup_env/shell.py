"""Running commands: their output in a log, a sign of life on the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from setup_env.progress import Progress


class Shell:
    """Runs commands with their output in a log and a sign of life on the terminal.

    On a terminal the sign is one line that changes; elsewhere it is a line a minute, so that a CI
    log shows the job alive.
    """

    def __init__(self, log: Path, environ: dict[str, str]) -> None:
        self.log = log
        self.environ = environ
        self.tty = sys.stdout.isatty()

    def run(self, command: list, **extra: str) -> str:
        """Run to the end and return the output; stop the set-up with its tail if it fails."""
        progress, lines = Progress(), []

        def read(stream) -> None:
            with open(str(self.log), 'a') as log:
                print('$', *command, file=log, flush=True)
                for line in stream:
                    log.write(line)
                    log.flush()
                    lines.append(line)
                    progress.feed(line)

        start = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={**self.environ, **extra},
            start_new_session=True,  # so that the whole family can be stopped
            close_fds=False,  # the child shares our lock
        )
        reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1 if self.tty else 60)
                    break
                self._show(progress.line(time.monotonic() - start))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            if self.tty:
                print('\r\033[K', end='', flush=True)
        reader.join()
        if process.returncode:
            self._fail(command, process.returncode, lines)
        return ''.join(lines)

    def _show(self, text: str) -> None:
        print(
            f'\r\033[K      {text}' if self.tty else f'      {text}',
            flush=True,
            end='' if self.tty else '\n',
        )

    def _fail(self, command: list, code: int, lines: list[str]) -> None:
        tail = ''.join('      | ' + line for line in lines[-15:])
        raise SystemExit(
            f'{tail}\nset-up: the command ended with exit code {code}:\n'
            f'  {" ".join(map(str, command))}\nAll it said is in {self.log}. '
            'When the cause is mended, run the same make again: it goes on from here.'
        )
