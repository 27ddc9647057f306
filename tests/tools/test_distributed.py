"""Two processes on a CPU, through the Runner and the scripts: the same results as with one."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from _checks import check_device
from _cli import UsageError
from _resume import check_processes
from demo_data import write_demo_data
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmtoken.common.weights import read_checkpoint
from tools.processes import HERE, environment, finish, spawn, start

from tools import two_processes

DEMOS = sorted((HERE.parents[1] / 'configs' / 'demo').glob('*.py'))
# without a host: their import would take most of the time
QUICK = [name for name in two_processes.CHAINS if name not in two_processes.HOSTS]
QUICK = [QUICK[0], QUICK[-1]]


# gradients and losses of the same global batch


def train_chains(folder, *names) -> Path:
    env = environment(folder, hosts=not names)
    finish(spawn(sys.executable, HERE / 'two_processes.py', folder, *names, env=env))
    return folder


def check_chain(folder, name) -> None:
    """Both ranks against the process that was alone."""
    *ranks, alone = (torch.load(folder / f'{name}_{number}.pth') for number in range(3))
    for rank in ranks:
        assert len(alone['losses']) == two_processes.NUM_STEPS
        torch.testing.assert_close(rank['losses'], alone['losses'], rtol=1e-10, atol=1e-12)
        for part in ('gradients', 'parameters'):
            assert rank[part].keys() == alone[part].keys()
            scale = max(value.abs().max().item() for value in alone[part].values())
            for key, value in alone[part].items():
                other = rank[part][key]
                # some gradients are zero up to rounding, e.g. of the bias of keys
                torch.testing.assert_close(
                    other, value, rtol=1e-10, atol=1e-13 * scale, msg=lambda m, k=key: f'{k}: {m}'
                )


def test_two_small_models(tmp_path):
    train_chains(tmp_path, *QUICK)
    for name in QUICK:
        check_chain(tmp_path, name)


@pytest.fixture(scope='module')
def chains(tmp_path_factory):
    return train_chains(tmp_path_factory.mktemp('chains'))


@pytest.mark.slow
@pytest.mark.parametrize('name', two_processes.CHAINS)
def test_every_backbone_neck_and_head(chains, name):
    if (host := two_processes.HOSTS.get(name)) and MODELS.get(name) is None:
        pytest.skip(f'{host} is not installed')
    check_chain(chains, name)


# the tools


@pytest.mark.slow
def test_training(toy):
    """The same weights and metrics; each process draws its own random numbers.

    A batch is the whole data set, so the processes must have shuffled it alike to share it.
    """
    hook = "_base_ = 'toy_config.py'\ncustom_hooks = [dict(type='DrawHook')]"
    config = toy.write('drawing.py', hook)
    toy.annotate([dict(x=0.1 * i, y=0.2 * i * i) for i in range(4)])
    toy.annotate([dict(x=0.1 * i, y=0.0) for i in range(5)], 'five.json')
    found = []
    for processes in (1, 2):
        folder = toy.folder / f'runs{processes}'
        places = ('--data-root', toy.data, '--work-dir', folder)
        options = ['randomness.seed=1', 'val_dataloader.dataset.ann_file=five.json']
        options += [f'train_dataloader.batch_size={4 // processes}']
        arguments = (config, *places, '--cfg-options', *options)
        finish(start('train', processes, *arguments, env=environment(toy.folder, hosts=False)))
        (log,) = folder.glob('*/vis_data/scalars.json')
        log = [json.loads(line) for line in log.read_text().splitlines()]
        drawn = [json.loads(path.read_text()) for path in sorted(folder.glob('drawn_*.json'))]
        found.append((read_checkpoint(folder / 'epoch_2.pth')['state_dict'], log, drawn))
    (alone, log, _), (together, log_together, (first, second)) = found
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-6, atol=1e-7)
    assert [line.keys() for line in log] == [line.keys() for line in log_together]
    for key in ('mean', 'lr'):  # a logged loss is that of the first process
        values, expected = (
            [line[key] for line in lines if key in line] for lines in (log_together, log)
        )
        assert len(values) == 2
        assert values == pytest.approx(expected, rel=1e-6)
    assert first['parameters'] == second['parameters']
    assert first['draws'] != second['draws']


@pytest.mark.slow
@pytest.mark.parametrize('round_up', [True, False])
def test_evaluation_of_an_odd_number_of_samples(trained, round_up):
    trained.annotate([dict(x=float(i), y=0.0) for i in range(5)], 'five.json')
    options = ['test_dataloader.dataset.ann_file=five.json', 'test_dataloader.batch_size=1']
    options += [f'test_dataloader.sampler.round_up={round_up}']
    found = []
    for processes in (1, 2):
        out = [trained.folder / f'{processes}.{suffix}' for suffix in ('json', 'pkl')]
        arguments = [trained.config, trained.work_dir / 'epoch_2.pth', '--out', out[0]]
        arguments += ['--dump', out[1], '--data-root', trained.data]
        arguments += ['--work-dir', trained.folder / 'test', '--cfg-options', *options]
        env = environment(trained.folder, hosts=False)
        finish(start('test', processes, *arguments, env=env))
        found.append((json.loads(out[0].read_text()), pickle.loads(out[1].read_bytes())))
    (metrics, samples), (metrics_together, samples_together) = found
    assert len({sample['pred'] for sample in samples}) == 5
    assert samples_together == samples
    assert metrics_together == metrics


def assert_equal(one, other) -> None:
    """Compare predictions, which are nested dicts of tensors and arrays."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), [other[key] for key in one]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    elif isinstance(one, (torch.Tensor, float)) or hasattr(one, 'dtype'):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize('config', DEMOS, ids=lambda path: path.stem)
def test_evaluation_in_each_host(tmp_path, config):
    """Metrics and predictions of a model with random weights on three images."""
    write_demo_data(tmp_path / 'data', num_train=1, num_val=3)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    checkpoint = tmp_path / 'random.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    found = []
    for processes in (1, 2):
        out = [tmp_path / f'{processes}.{suffix}' for suffix in ('json', 'pkl')]
        arguments = [config, checkpoint, '--out', out[0], '--dump', out[1]]
        arguments += ['--data-root', tmp_path / 'data', '--work-dir', tmp_path / 'test']
        env = environment(tmp_path, hosts=True)
        finish(start('test', processes, *arguments, env=env))
        found.append((json.loads(out[0].read_text()), pickle.loads(out[1].read_bytes())))
    (metrics, samples), (metrics_together, samples_together) = found
    assert metrics and metrics_together == pytest.approx(metrics, rel=1e-4)
    assert len(samples) > 2
    assert_equal(samples, samples_together)


SHARDED = """
_base_ = 'toy_config.py'
runner_type = 'FlexibleRunner'
env_cfg = dict(cudnn_benchmark=False)
policy = dict(type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=1)
wrapper = dict(device_id='cpu', auto_wrap_policy=policy)
strategy = dict(type='FSDPStrategy', model_wrapper=wrapper)
"""


@pytest.mark.slow
def test_sharded_parameters(toy):
    """FSDP on two CPUs learns what one process does, and writes a file per process."""
    means = []
    sharded = toy.write('sharded.py', SHARDED)
    for processes, config in ((1, toy.config), (2, sharded)):
        folder = toy.folder / f'runs{processes}'
        arguments = [config, '--data-root', toy.data, '--work-dir', folder, '--cfg-options']
        arguments += ['randomness.seed=1', f'train_dataloader.batch_size={4 // processes}']
        finish(start('train', processes, *arguments, env=environment(toy.folder, hosts=False)))
        (log,) = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        means.append([line['mean'] for line in lines if 'mean' in line])
    assert len(means[0]) == 2
    assert means[1] == pytest.approx(means[0], rel=1e-5)
    assert len(list((folder / 'epoch_2.pth').iterdir())) == 2


@pytest.mark.parametrize(
    ('launcher', 'given', 'expected'),
    [
        ('none', None, None),
        ('pytorch', None, dict(seed=None, diff_rank_seed=True)),
        ('slurm', dict(seed=3), dict(seed=3, diff_rank_seed=True)),
        ('pytorch', dict(diff_rank_seed=False), dict(seed=None, diff_rank_seed=False)),
    ],
)
def test_seed_of_each_process(commands, toy, launcher, given, expected):
    tool, args = commands.parse('train', toy.config, '--launcher', launcher)
    cfg = tool.load_config(args)
    if given:
        cfg.randomness = given
    tool.apply_options(cfg, args)
    assert cfg.get('randomness') == expected


def test_machines_that_do_not_share_the_work_directory(monkeypatch):
    for others, message in (([8], None), ([None], '8, none'), ([4], '8, iteration 4')):
        monkeypatch.setattr('_resume.all_gather_object', lambda one: [one, *others])  # noqa: B023
        if not message:
            check_processes(dict(iter=8))
            continue
        with pytest.raises(UsageError, match=f'the same checkpoint .* iteration {message}; put'):
            check_processes(dict(iter=8))


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
