"""``import mmtoken``, not imported before: quiet, offline, with any subset of the hosts."""

import subprocess
import sys

import pytest
from rooms import HOSTS, REGISTERED

# Every case is a fork of one interpreter that has loaded torch and, after the first case, mmengine
PROGRAM = """
import contextlib, importlib.abc, json, os, socket, sys
with contextlib.redirect_stderr(None):  # torch 2.4 warns that a part of it is deprecated
    import torch.distributed.optim  # mmengine loads it

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in blocked:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

def offline(*args):
    raise OSError('no network in this test')

socket.socket.connect = offline
sys.meta_path.insert(0, Block())
loaded = {'mmengine', 'mmtoken', *HOSTS} & set(sys.modules)
assert not loaded, loaded
for name, (blocked, code) in CASES.items():
    child = os.fork()
    if not child:
        log = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        exec(code)
        break
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    blocked = ()
    import mmengine.runner
    assert not set(HOSTS) & set(sys.modules), 'mmengine loads a host'
"""
REGISTRATION = """
import mmtoken
from mmengine import registry
for name, wanted in EXPECTED.items():
    for kind, there in wanted.items():
        assert (kind in getattr(registry, name)) == there, (kind, there)
unneeded = UNNEEDED & set(sys.modules)
assert not unneeded, f'importing mmtoken loads {unneeded}'
"""
NEEDED = {one.host for one in REGISTERED}
# a host may load mmcv and mmdet, and mmdet 3.3 loads mmpretrain
UNNEEDED = {'mmpose', 'mmseg'} - NEEDED


def registration(*blocked: str) -> tuple[tuple, str]:
    """The case of these hosts not being installed; without mmcv none of them works."""
    installed = {None, *HOSTS} - set(blocked) if 'mmcv' not in blocked else {None}
    expected = {}
    for one in REGISTERED:
        expected.setdefault(one.registry, {})[one.name] = one.host in installed
    return blocked, f'EXPECTED, UNNEEDED = {expected!r}, {UNNEEDED!r}\n{REGISTRATION}'


CASES = {
    'no-mmengine': (('mmengine',), 'import mmtoken'),
    'all': registration(),
    'no-host': registration(*HOSTS),
    **{f'no-{host}': registration(host) for host in HOSTS if host in NEEDED},
    'no-mmcv-no-mmdet': registration('mmcv', 'mmdet'),
}


@pytest.fixture(scope='module')
def imports(tmp_path_factory):
    """Name of a case to its exit status and all that it printed."""
    folder = tmp_path_factory.mktemp('imports')
    program = f'HOSTS = {HOSTS}\nCASES = {CASES!r}\n{PROGRAM}'
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, '')
    statuses = dict(line.split() for line in done.stdout.splitlines())
    return {name: (int(statuses[name]), (folder / name).read_text()) for name in CASES}


@pytest.mark.parametrize('case', [name for name in CASES if name != 'no-mmengine'])
def test_registers_quietly_and_loads_no_host(imports, case):
    assert imports[case] == (0, '')


def test_missing_mmengine_says_what_to_install(imports):
    status, output = imports['no-mmengine']
    assert status and 'ImportError' in output
    assert 'pip install onedl-mmengine' in output
