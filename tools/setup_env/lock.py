"""A lock between set-ups that run at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path):
    """Hold a lock that processes started meanwhile share, so that an orphaned build keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), 'a') as handle:
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'      another set-up is at work here; waiting for it ({path})', flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
