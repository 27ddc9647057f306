"""``import mmtoken``, not imported before: quiet, offline, with any subset of the hosts."""

import subprocess
import sys

import pytest

HOSTS = ('mmcv', 'mmdet', 'mmseg', 'mmpose', 'mmpretrain')
# Every case is a fork of one interpreter that has loaded torch, which takes most of the time
PROGRAM = """
import importlib.abc, json, os, socket, sys
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
"""
REGISTERED = """
import mmtoken
from mmengine.registry import MODELS
assert all(name in MODELS for name in ('TCFormer', 'MTA', 'PaCaViT'))
# mmseg, which PaCaHead needs, may load mmdet
unneeded = {'mmpose', 'mmpretrain'} & set(sys.modules)
assert not unneeded, f'importing mmtoken loads {unneeded}'
"""
WITH_MMSEG = REGISTERED + "assert 'PaCaHead' in MODELS\n"
WITHOUT_MMSEG = REGISTERED + "assert 'PaCaHead' not in MODELS\n"
CASES = {
    'all': ((), WITH_MMSEG),
    'no-host': (HOSTS, WITHOUT_MMSEG),
    'no-mmseg': (('mmseg',), WITHOUT_MMSEG),
    'no-mmpose': (('mmpose',), WITH_MMSEG),
    'no-mmcv-no-mmdet': (('mmcv', 'mmdet'), WITHOUT_MMSEG),
    'no-mmengine': (('mmengine',), 'import mmtoken'),
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
