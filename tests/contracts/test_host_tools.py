"""The hosts' own, unmodified train.py and test.py and their inferencers take our configs.

All runs are forks of one interpreter, which has loaded torch.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mmcv
import pytest
from demo_data import write_demo_data
from mmengine.config import Config
from samples import SPLITS
from shipped import demo, load

METRICS = dict(mmpose='coco/AP: ', mmdet='coco/segm_mAP: ', mmseg='mIoU: ')
PROGRAM = """
import importlib, json, os, runpy, sys, traceback
import torch.distributed.optim, mmengine.runner, mmcv.ops  # what takes the time

def in_a_fork(function, *arguments):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        status = function(*arguments)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)

def run(tool, *arguments):
    assert 'mmtoken' not in sys.modules
    sys.argv = [tool, *arguments]
    sys.path[0] = os.path.dirname(tool)
    runpy.run_path(tool, run_name='__main__')
    return 0

def run_all(host, commands):
    log = os.open(host, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for part in ('models', 'datasets', 'evaluation', 'visualization', 'engine'):
        importlib.import_module(host + '.' + part)  # as the tools do, both of them
    return any(in_a_fork(run, *command) for command in commands)

for host, commands in json.load(open('commands.json')).items():
    print(host, in_a_fork(run_all, host, commands))
"""


class Trained(NamedTuple):
    """What the host's own train.py and test.py left behind."""

    log: str
    checkpoint: Path
    image: Path


def host_options(cfg: Config, data_root: Path) -> list[str]:
    """One iteration or epoch on the data below ``data_root``, in the words of the hosts' tools."""
    options = ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    options += [f'train_cfg.{key}=1' for key in ('max_epochs', 'max_iters') if key in cfg.train_cfg]
    for split in SPLITS:
        loader = f'{split}_dataloader'
        options += [f'{loader}.dataset.data_root={data_root}', f'{loader}.num_workers=0']
        options += [f'{loader}.persistent_workers=False']
    for split in ('val', 'test'):
        file = cfg[f'{split}_evaluator'].get('ann_file')
        if file:
            moved = data_root / Path(file).relative_to(cfg.data_root)
            options.append(f'{split}_evaluator.ann_file={moved}')
    return options


def commands(host: str, folder: Path) -> list[list[str]]:
    """Train the demo config of a host for an iteration, then test it."""
    cfg = load(demo(host))
    tools = Path(pytest.importorskip(host).__file__).parent / '.mim/tools'
    last = 'epoch_1.pth' if 'max_epochs' in cfg.train_cfg else 'iter_1.pth'
    work_dir = folder / f'{host}_work'
    options = ['--work-dir', work_dir, '--cfg-options', *host_options(cfg, folder / 'data')]
    train = [tools / 'train.py', demo(host), *options]
    test = [tools / 'test.py', demo(host), work_dir / last, *options]
    return [[str(word) for word in command] for command in (train, test)]


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> dict[str, Trained]:
    """Of each host, the log and the checkpoint of its tools on the demo config."""
    folder = tmp_path_factory.mktemp('host')
    write_demo_data(folder / 'data', num_train=2, num_val=1)
    todo = {host: commands(host, folder) for host in METRICS}
    (folder / 'commands.json').write_text(json.dumps(todo))
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (image,) = (folder / 'data/img_dir/val').glob('*.png')
    logs = {host: (folder / host).read_text() for host in METRICS}
    for line in done.stdout.splitlines():
        host, status = line.split()
        assert status == '0', logs[host]
    return {host: Trained(logs[host], Path(todo[host][1][2]), image) for host in METRICS}


@pytest.mark.parametrize('host', METRICS)
def test_host_tools_run_the_demo_config(host, trained):
    """train.py evaluates at the end, and test.py evaluates its checkpoint."""
    assert trained[host].checkpoint.is_file()
    assert trained[host].log.count(METRICS[host]) == 2


def test_det_inferencer_takes_config_and_checkpoint(trained):
    apis = pytest.importorskip('mmdet.apis')
    checkpoint, image = trained['mmdet'][1:]
    inferencer = apis.DetInferencer(str(demo('mmdet')), str(checkpoint), 'cpu')
    found = inferencer(str(image), return_datasamples=True, no_save_vis=True)
    (prediction,) = found['predictions']
    instances = prediction.pred_instances
    assert len(instances) > 0
    assert instances.bboxes.isfinite().all()
    assert instances.masks.shape[1:] == mmcv.imread(str(image)).shape[:2]
    assert 'cone' in inferencer.model.dataset_meta['classes']


def test_mmseg_inferencer_takes_config_and_checkpoint(trained):
    apis = pytest.importorskip('mmseg.apis')
    checkpoint, image = trained['mmseg'][1:]
    inferencer = apis.MMSegInferencer(str(demo('mmseg')), str(checkpoint), device='cpu')
    labels = inferencer(str(image))['predictions']
    assert labels.shape == mmcv.imread(str(image)).shape[:2]
    assert labels.min() >= 0 and labels.max() < len(inferencer.model.dataset_meta['classes'])
    assert 'cone' in inferencer.model.dataset_meta['classes']
