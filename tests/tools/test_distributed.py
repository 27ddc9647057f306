"""Two processes on a CPU, through the Runner: the same weights and metrics as with one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _checks import check_device
from mmengine.config import Config

PROCESSES = 2


def run_training(commands, toy, processes, *arguments):
    """Call train.py in a subprocess, or dist_train.sh."""
    paths = (commands.tools.parent / 'projects', Path(__file__).parent)
    bin_folder = Path(sys.executable).parent
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(map(str, paths)),
        PATH=f'{bin_folder}{os.pathsep}{os.environ["PATH"]}',
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES='-1',
    )
    command = [sys.executable, commands.tools / 'train.py', toy.config]
    if processes:
        command = [commands.tools / 'dist_train.sh', toy.config, processes]
    command = [*map(str, (*command, '--data-root', toy.data, *arguments))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture
def results(commands, toy):
    """Weights and the log, by number of processes."""
    toy.annotate([dict(x=0.1 * i, y=0.2 * i * i) for i in range(4)])
    toy.annotate([dict(x=0.1 * i, y=0.0) for i in range(5)], 'five.json')
    found = []
    for processes in (0, PROCESSES):
        folder = toy.folder / f'runs{processes}'
        options = (
            '--cfg-options',
            'randomness.seed=1',
            'val_dataloader.dataset.ann_file=five.json',
        )
        options += (f'train_dataloader.batch_size={2 if processes else 4}',)
        run_training(commands, toy, processes, '--work-dir', folder, *options)
        state = torch.load(folder / 'epoch_2.pth', weights_only=True)
        (log,) = folder.glob('*/vis_data/scalars.json')
        found.append((state, [json.loads(line) for line in log.read_text().splitlines()]))
    return found


@pytest.mark.slow
def test_two_processes_are_one(results):
    """The same global batch gives the same weights; every sample is evaluated exactly once."""
    (alone, log), (together, log_together) = results
    for key, value in alone['state_dict'].items():
        torch.testing.assert_close(together['state_dict'][key], value, rtol=1e-6, atol=1e-7)
    assert [line.keys() for line in log] == [line.keys() for line in log_together]
    for key in ('mean', 'lr'):  # a logged loss is that of the first process
        found, expected = (
            [line[key] for line in lines if key in line] for lines in (log_together, log)
        )
        assert len(found) == 2
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_group_of_gloo_before_the_runner(monkeypatch):
    """Wrapped without device ids; what a config says about its wrapper stays."""
    started = []
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr('_checks.get_device', lambda: 'cpu')
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.append)
    wrapper = dict(optim_wrapper={}, model_wrapper_cfg=dict(broadcast_buffers=True))
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True, **wrapper))
    check_device(cfg, 'train')
    assert started == ['gloo']
    expected = dict(device_ids=None, broadcast_buffers=True, find_unused_parameters=True)
    assert cfg.model_wrapper_cfg == expected


@pytest.mark.parametrize(
    ('script', 'program', 'arguments', 'expected'),
    [
        (
            'dist_train.sh',
            'torchrun',
            ('c.py', '4', '--amp'),
            '--nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr 127.0.0.1 --master_port '
            '29500 {tools}/train.py c.py --launcher pytorch --amp',
        ),
        (
            'dist_test.sh',
            'torchrun',
            ('c.py', 'w.pth', '4', '--out', 'a b.json'),
            '--nnodes 2 --node_rank 0 --nproc_per_node 4 --master_addr 127.0.0.1 --master_port '
            '29500 {tools}/test.py c.py w.pth --launcher pytorch --out a b.json',
        ),
        (
            'slurm_train.sh',
            'srun',
            ('part', 'job', 'c.py', '--resume'),
            '--partition part --job-name job --ntasks 4 --ntasks-per-node 4 --gres gpu:4 '
            '--cpus-per-task 5 --kill-on-bad-exit=1 --exclusive python -u {tools}/train.py c.py '
            '--launcher slurm --resume',
        ),
    ],
)
def test_scripts(commands, tmp_path, script, program, arguments, expected):
    """What they start: a stand-in that prints its arguments, one a line."""
    (tmp_path / program).write_text('#!/bin/sh\nfor one; do echo "$one"; done\n')
    (tmp_path / program).chmod(0o755)
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    env = dict(os.environ, PATH=path, NNODES='2', GPUS='4', SRUN_ARGS='--exclusive')
    tool = commands.tools / script
    done = subprocess.run([tool, *arguments], env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert ' '.join(lines) == expected.format(tools=commands.tools)
    assert lines[-1] == arguments[-1]  # with its space
    failed = subprocess.run([tool], env=env, capture_output=True, text=True)
    assert failed.returncode != 0 and ('CONFIG' in failed.stderr or 'PARTITION' in failed.stderr)
