"""Call the command-line tools in subprocesses, one or several, on a CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / 'tools'
WITHOUT_HOSTS = (
    "import sys\nsys.modules.update(dict.fromkeys('mmdet mmseg mmpose mmpretrain'.split()))"
)


def environment(folder: Path, *, hosts: bool) -> dict[str, str]:
    """Return variables for a subprocess: no GPU, the toy importable, a free port.

    Importing the hosts takes most of the time of a small run; without them, ``folder`` gets a file
    that Python reads when it starts.
    """
    if not hosts:
        (folder / 'sitecustomize.py').write_text(WITHOUT_HOSTS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    return dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(map(str, (TOOLS.parent / 'projects', HERE, folder))),
        PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES='-1',
        OMP_NUM_THREADS='1',
    )


def start(tool: str, processes: int, *arguments: object, env: dict[str, str]) -> subprocess.Popen:
    """Start train.py or test.py, through dist_train.sh or dist_test.sh if in several processes."""
    positional = dict(train=1, test=2)[tool]
    command = [sys.executable, TOOLS / f'{tool}.py', *arguments]
    if processes > 1:
        command = [TOOLS / f'dist_{tool}.sh', *arguments[:positional], processes]
        command += arguments[positional:]
    return spawn(*command, env=env)


def spawn(*command: object, env: dict[str, str]) -> subprocess.Popen:
    """Start a command whose output is kept as text."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen([*map(str, command)], env=env, **pipes)


def finish(process: subprocess.Popen) -> str:
    """Wait for a process that must not fail; return its output."""
    output = process.communicate()[0]
    assert process.returncode == 0, output[-4000:]
    return output
