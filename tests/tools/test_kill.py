"""SIGKILL at random moments: a resumed run ends as one that was never interrupted."""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from mmtoken.common.weights import read_checkpoint
from tools.processes import environment, finish, start

# 6 iterations of 20 ms and a checkpoint of 40 MB, which takes about as long, in turns
CONFIG = """
_base_ = 'toy_config.py'
model = dict(padding=10_000_000, pause=0.02)
randomness = dict(seed=7)
param_scheduler = dict(type='CosineAnnealingLR', T_max=120, by_epoch=False)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
val_dataloader = val_cfg = val_evaluator = None
"""
LOOPS = dict(
    epochs='train_cfg = dict(max_epochs=20)',
    iterations="""
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=120)
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=6), logger=dict(log_metric_by_epoch=False))
""",
)
LAST = dict(epochs='epoch_20.pth', iterations='iter_120.pth')


@pytest.fixture(params=[('epochs', 1, 6), ('iterations', 1, 2), ('epochs', 2, 2)], ids=str)
def case(request, toy):
    loop, processes, kills = request.param
    toy.annotate([dict(x=0.1 * i, y=0.02 * i * i) for i in range(12)])
    base = toy.write('base.py', CONFIG)
    toy.config = toy.write('killed.py', f"_base_ = '{base.name}'{os.linesep}{LOOPS[loop]}")
    return toy, LAST[loop], processes, kills


def begin(toy, processes, folder):
    arguments = [toy.config, '--data-root', toy.data, '--work-dir', folder, '--resume']
    # the same global batch, and so the same number of iterations
    arguments += ['--cfg-options', f'train_dataloader.batch_size={2 // processes}']
    return start('train', processes, *arguments, env=environment(toy.folder, hosts=False))


def victim(pid: int, rank: int | None) -> int:
    """The process itself, or that of one rank below torchrun."""
    if rank is None:
        return pid
    children = map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split())
    place = f'\0RANK={rank}\0'
    return next(one for one in children if place in Path(f'/proc/{one}/environ').read_text())


def wait_until(condition, process, seconds=120) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and not condition() and time.monotonic() < end:
        time.sleep(0.001)


def kill(process, folder, how, rank) -> bool:
    """Kill one process during training, or while it writes; False if it ended before."""
    before = set(folder.glob('*/vis_data/scalars.json'))
    wait_until(lambda: set(folder.glob('*/vis_data/scalars.json')) - before, process)
    time.sleep(random.uniform(0, 2))
    if how == 'writing':
        wait_until(lambda: list(folder.glob('*.part')), process)
    if process.poll() is not None:
        return False
    os.kill(victim(process.pid, rank), signal.SIGKILL)
    return True


@pytest.mark.slow
def test_killed_and_resumed(case):
    toy, last, processes, kills = case
    whole, folder = toy.folder / 'whole', toy.folder / 'killed'
    folder.mkdir()
    finish(begin(toy, processes, whole))

    random.seed(seed := random.SystemRandom().randrange(1000))
    print(f'{seed=}')
    killed = writing = 0
    for number in range(kills):
        for left in folder.glob('*.part'):  # by the kill before
            left.unlink()
        process = begin(toy, processes, folder)
        rank = 1 - number % 2 if processes > 1 else None  # the first one writes
        done = kill(process, folder, ('running', 'writing')[number % 2], rank)
        output = process.communicate()[0]
        killed += done
        found = sorted(path.name for path in folder.glob('*.p*'))
        writing += any(name.endswith('.part') for name in found)
        print(number, rank, done, process.returncode, found)
        assert done or process.returncode == 0, output[-4000:]
        if process.returncode and processes > 1:
            assert re.search(rf'rank *: {rank} .*Signal 9 \(SIGKILL\)', output, re.DOTALL)
    assert killed
    print(f'{killed=} {writing=}')
    finish(begin(toy, processes, folder))

    expected = read_checkpoint(whole / last)
    check_equal(read_checkpoint(folder / last), expected)

    damaged = whole / last
    damaged.write_bytes(damaged.read_bytes()[:1000])
    output = finish(begin(toy, processes, whole))
    assert re.search(rf'warning: .*{last}', output) and 'no whole checkpoint: resuming' in output
    check_equal(read_checkpoint(damaged), expected)


def check_equal(found, expected) -> None:
    """Bitwise, and with the same losses in all iterations: the sampler went on where it was."""
    assert found['meta']['iter'] == expected['meta']['iter'] == 120
    assert found['param_schedulers'] == expected['param_schedulers']
    one, other = found['optimizer'], expected['optimizer']
    assert one['param_groups'] == other['param_groups']
    torch.testing.assert_close(one['state'], other['state'], rtol=0, atol=0)
    torch.testing.assert_close(found['state_dict'], expected['state_dict'], rtol=0, atol=0)
    losses = (run['message_hub']['log_scalars']['train/loss'].data[0] for run in (found, expected))
    one, other = (values.tolist() for values in losses)
    assert one == other and len(one) == 120
