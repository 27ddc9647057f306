"""``import mmtoken`` in a fresh interpreter: quiet, offline, with any subset of the hosts."""

import subprocess
import sys

import pytest

HOSTS = ('mmcv', 'mmdet', 'mmseg', 'mmpose', 'mmpretrain')
BLOCK = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Block())
import socket
def offline(*args): raise OSError('no network in this test')
socket.socket.connect = offline
"""


def run(code, blocked=()):
    return subprocess.run(
        [sys.executable, '-c', BLOCK.format(blocked=set(blocked)) + code],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize('blocked', [(), HOSTS, ('mmpose',), ('mmcv', 'mmdet')], ids=str)
def test_imports_quietly_without(blocked):
    done = run(
        'import mmtoken\n'
        'from mmengine.registry import MODELS\n'
        "assert 'TCFormer' in MODELS and 'MTA' in MODELS",
        blocked,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_loads_no_host():
    done = run(f'import sys, mmtoken\nprint([h for h in {HOSTS} if h in sys.modules])')
    assert done.stdout.strip() == '[]'


def test_missing_mmengine_says_what_to_install():
    done = run('import mmtoken', ['mmengine'])
    assert 'pip install onedl-mmengine' in done.stderr
    assert 'ImportError' in done.stderr
