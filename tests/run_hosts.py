"""Run the tools and inferencers of the hosts, each in a fork that has loaded what takes the time.

python run_hosts.py JOBS.json: per host a list of jobs ``[name, tool or class, words]``. What a job
prints goes to the file ``HOST-NAME`` in the working directory, and its status to the output.
"""

import functools
import importlib
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any

import mmcv.ops  # noqa: F401
import mmengine.runner  # noqa: F401
import torch.distributed.optim  # noqa: F401
from mmengine.config import utils
from yapf.yapflib import yapf_api

# white space of printed configs, and metafiles that do not change: most of the time of a small run
yapf_api.FormatCode = lambda text, **style: (text, True)
utils.load = functools.cache(utils.load)


def in_a_fork(function: Callable, *arguments: Any) -> int:
    """Call the function in a child process and return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 0
    try:
        function(*arguments)
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            traceback.print_exc()
            status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(log: str, what: str, words: list[str] | dict) -> None:
    """Run a tool with its words as the command line, or build and call an inferencer."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    assert 'mmtoken' not in sys.modules
    if isinstance(words, dict):
        module, name = what.rsplit('.', 1)
        inferencer = getattr(importlib.import_module(module), name)(**words['build'])
        list(inferencer(**words['call']))  # mmpose's is a generator
        return
    sys.argv = [what, *words]
    sys.path[0] = os.path.dirname(what)
    runpy.run_path(what, run_name='__main__')


if __name__ == '__main__':
    with open(sys.argv[1], encoding='utf-8') as todo:
        jobs = json.load(todo)
    for host in jobs:  # all of them: mmtoken loads the hosts of its heads
        for part in ('models', 'datasets', 'evaluation', 'visualization', 'engine'):
            importlib.import_module(f'{host}.{part}')
    for host, jobs_of_host in jobs.items():
        for name, what, words in jobs_of_host:
            log = f'{host}-{name}'
            print(log, in_a_fork(run, log, what, words), flush=True)
