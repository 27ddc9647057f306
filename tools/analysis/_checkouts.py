"""Models of another checkout, timed in a process of their own.

Run as a script, this is that process: ``python _checkouts.py TIMING_PY CONNECTION_FD``. It imports
the other checkout's ``mmtoken``, but times with this checkout's ``timing.py``.
"""

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _parts import build_nodes

ROOT = Path(__file__).resolve().parents[2]


def unpack(commit: str) -> TemporaryDirectory:
    """The files of a commit; ValueError if git does not have it."""
    git = ['git', '-C', str(ROOT), 'archive', '--format=tar', commit]
    found = subprocess.run(git, capture_output=True)
    if found.returncode:
        raise ValueError(
            f'--checkout must be a folder or a commit of this repository, got {commit!r}; '
            f'git says {found.stderr.decode(errors="replace").strip()!r}'
        )
    folder = TemporaryDirectory(prefix=f'mmtoken-{commit}-')
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder.name, filter='data')
    return folder


class OtherCheckout:
    """A :class:`TimedModel` of another checkout.

    Args:
        folder: The checkout, or a commit of this one; the package is in ``projects``.
        nodes: Names and configs of the modules that run one after the other.
        scope: Default scope of the config.
        options: The arguments of ``TimedModel`` after the model.
    """

    def __init__(
        self, folder: str, nodes: dict[str, dict], scope: str, options: tuple[Any, ...]
    ) -> None:
        self.unpacked = None if Path(folder).is_dir() else unpack(folder)
        folder = Path(self.unpacked.name if self.unpacked else folder)
        if not (folder / 'projects' / 'mmtoken').is_dir():
            raise ValueError(
                f'--checkout needs a folder with projects/mmtoken, got {str(folder)!r}'
            )
        timing = ROOT / 'projects/mmtoken/analysis/timing.py'
        self.connection, theirs = Pipe()
        fd = theirs.fileno()
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(timing), str(fd)],
            env={**os.environ, 'PYTHONPATH': str(folder.resolve() / 'projects')},
            pass_fds=[fd],
        )
        theirs.close()
        self.ask('build', nodes, scope, options, torch.get_num_threads())

    def ask(self, *request: Any) -> Any:
        """Send a request and wait for the answer; ValueError if the other code fails."""
        try:
            self.connection.send(request)
            answer, error = self.connection.recv()
        except (EOFError, OSError):
            error = 'the end of its process'
        if error is not None:
            raise ValueError(f'the code of --checkout {self.folder} must run, got {error}')
        return answer

    def close(self) -> None:
        """End the other process."""
        self.connection.close()
        self.process.wait()
        if self.unpacked:
            self.unpacked.cleanup()

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Take weights; ValueError if they do not fit."""
        self.ask('load', {name: value.numpy() for name, value in weights.items()})

    def outputs(self, shape: tuple[int, ...]) -> list[torch.Tensor]:
        """Return the tensors that a forward pass returns."""
        return [torch.from_numpy(array) for array in self.ask('outputs', shape)]

    def time(self, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Elapsed and CPU milliseconds of one call."""
        return self.ask('time', kind, shape)

    def peak(self, kind: str, shape: tuple[int, ...]) -> int:
        """Peak memory of one call."""
        return self.ask('peak', kind, shape)


def serve(timing_file: str, connection: Connection) -> None:
    """Answer the requests of :class:`OtherCheckout` until it closes the connection."""
    spec = importlib.util.spec_from_file_location('timing', timing_file)
    timing = sys.modules['timing'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timing)
    timed = None
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer, failure = respond(timing, timed, name, arguments), None
            if name == 'build':
                timed, answer = answer, None
        except Exception as error:  # raised where the request came from
            answer, failure = None, f'{type(error).__name__}: {error}'
        connection.send((answer, failure))


def respond(timing: Any, timed: Any, name: str, arguments: list[Any]) -> Any:
    """Answer one request; tensors travel as arrays."""
    if name == 'build':
        nodes, scope, options, threads = arguments
        importlib.import_module('mmtoken')
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        return timing.TimedModel(build_nodes(nodes, scope), *options)
    if name == 'load':
        return timed.load({key: torch.from_numpy(value) for key, value in arguments[0].items()})
    answer = getattr(timed, name)(*arguments)
    return [tensor.float().numpy() for tensor in answer] if name == 'outputs' else answer


if __name__ == '__main__':
    serve(sys.argv[1], Connection(int(sys.argv[2])))
