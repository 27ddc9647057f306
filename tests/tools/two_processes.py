"""Train small models through the Runner in two processes on a CPU, and alone in a third one.

python tests/tools/two_processes.py FOLDER [NAME...]

test_distributed.py calls this and compares. The three are forked from one process, so that
the hosts are imported once.
"""

import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / 'tests'), str(ROOT / 'tools')]

import torch  # noqa: E402
from _checks import build_runner, check_device  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.dist import all_reduce, get_rank  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.registry import DATASETS, MODELS  # noqa: E402
from rooms import BACKBONES, READERS, REGISTERED, smallest_id  # noqa: E402
from shared_fixtures import randomize  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402
from torch.nn.modules.dropout import _DropoutNd  # noqa: E402

CHAINS = {smallest_id(one): [one] for one in BACKBONES}
CHAINS |= {reader['type']: [backbone, reader] for reader, backbone in READERS}
HOSTS = {one.name: one.host for one in REGISTERED if one.host}
GLOBAL_BATCH, NUM_STEPS = 4, 2


@DATASETS.register_module()
class Images(torch.utils.data.Dataset):
    """Float64 noise, of a size that no stride divides."""

    def __len__(self):
        return GLOBAL_BATCH * NUM_STEPS

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(image=torch.randn(3, 61, 75, generator=generator, dtype=torch.float64))


@MODELS.register_module()
class Chain(BaseModel):
    """A backbone, and what reads its output, in float64; every parameter counts in the loss."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(map(MODELS.build, parts))
        self.double()

    def init_weights(self):
        """Differs between the ranks: the Runner must send the parameters of the first one."""
        torch.manual_seed(get_rank())
        randomize(self)

    def train(self, mode=True):
        """No dropout; running statistics in batch norms: torch's SyncBN does not train on a CPU."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (_BatchNorm, _DropoutNd)):
                module.eval()
        return self

    def forward(self, image, mode='tensor'):
        for part in self.parts:
            image = part(image)
        maps = image if isinstance(image, (tuple, list)) else [image]
        return {f'loss_{index}': self.loss(one) for index, one in enumerate(maps)}

    def loss(self, one):
        """A mean over samples, so that the mean over ranks is that over the global batch."""
        one = one.flatten(1)
        weights = torch.arange(one.shape[1], dtype=one.dtype).cos()
        return ((one + one.square()) * weights).mean()


class Watch(Hook):
    """Keep the loss of the global batch and the gradients: momentum is the first gradient."""

    def __init__(self):
        self.losses, self.gradients = [], {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].clone()
        all_reduce(loss, 'mean')
        self.losses.append(loss)
        if not self.gradients:
            state = runner.optim_wrapper.optimizer.state
            self.gradients = {
                name.removeprefix('module.'): state[parameter]['momentum_buffer'].clone()
                for name, parameter in runner.model.named_parameters()
            }


def train(name, folder, processes):
    """Return losses, gradients and parameters of one short run."""
    loader = dict(
        batch_size=GLOBAL_BATCH // processes,
        num_workers=0,
        dataset=dict(type='Images'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    cfg = Config(
        dict(
            model=dict(type='Chain', parts=CHAINS[name]),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=dict(logger=None, checkpoint=None),
            default_scope=HOSTS.get(name, 'mmengine'),
            randomness=dict(seed=0),
            launcher='pytorch' if processes > 1 else 'none',
            work_dir=folder,
            experiment_name=f'{name}_{processes}',  # runners of one process share loggers by it
            log_level='ERROR',
        )
    )
    check_device(cfg, 'train')
    runner = build_runner(cfg, [], 'train')
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    state = getattr(runner.model, 'module', runner.model).state_dict()
    return dict(losses=watch.losses, gradients=watch.gradients, parameters=state)


def work(number, folder, names, port):
    """Be rank 0 or 1 of two, or alone."""
    torch.set_num_threads(1)
    processes = 2 if number < 2 else 1
    if processes == 2:
        place = dict(RANK=number, LOCAL_RANK=number, WORLD_SIZE=2)
        place |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        os.environ.update({key: str(value) for key, value in place.items()})
    for name in names:
        torch.save(train(name, folder, processes), f'{folder}/{name}_{number}.pth')


def main(folder, *names):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    arguments = (folder, names or list(CHAINS), port)
    torch.multiprocessing.start_processes(work, arguments, nprocs=3, start_method='fork')


if __name__ == '__main__':
    main(*sys.argv[1:])
