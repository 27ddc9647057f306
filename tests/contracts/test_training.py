"""One training step and one prediction of every kind of model that a shipped config describes.

A kind is a host with its heads, a backbone and its modes: everything that a config of a model says
in words. One config of it is taken, with the smallest backbone of that type, smaller pictures,
fewer boxes and one made-up sample in place of the data; the rest is as in the file.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.runner import Runner
from samples import HOSTS, SPLITS, OneSample, shrink
from shipped import (
    CONFIGS,
    build_optimizer,
    check_channels,
    load,
    missing_host,
    name,
    parsed,
    smallest,
    swap_in_the_smallest,
)

# workers would import the hosts once more each
IN_PROCESS = dict(num_workers=0, persistent_workers=False)


def words(node: object) -> list:
    """All types and modes below, in the order of the file."""
    if isinstance(node, dict):
        return [(key, words(value)) for key, value in sorted(node.items()) if words(value)]
    if isinstance(node, (list, tuple)):
        return [words(value) for value in node if words(value)]
    return node if isinstance(node, str) else []


def kind(path: Path) -> str:
    """Equal for configs whose models differ in numbers only."""
    if missing_host(path):
        return str(path)  # its test is skipped
    cfg = parsed(path)
    model = cfg._cfg_dict.to_dict()['model']
    arch = smallest(model['backbone']).get('arch', ())
    model['backbone'].pop('arch', None)
    for part in (model['backbone'], model):
        part.pop('init_cfg', None)
    return repr((cfg.default_scope, sorted(arch), words(model)))


def one_of_each_kind() -> list[Path]:
    """The last of its kind by name: a host's own backbone stays as it is, and is tiny there."""
    return sorted({kind(path): path for path in CONFIGS}.values())


@pytest.mark.parametrize('path', one_of_each_kind(), ids=name)
def test_trains_and_predicts(path, tmp_path):
    cfg = load(path)
    host = HOSTS[cfg.default_scope]
    torch.manual_seed(0)
    np.random.seed(0)
    shrink(cfg)
    swap_in_the_smallest(cfg)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = tmp_path.name  # runners of one process share loggers by this name
    runner = Runner.from_cfg(cfg)
    runner.model = model = revert_sync_batchnorm(runner.model)  # as on every CPU
    check_channels(cfg, model)
    loaders = {}
    for split in SPLITS:
        # a batch norm on a map of one pixel needs two images
        size = 2 if split == 'train' and cfg.default_scope != 'mmpose' else 1
        loader = dict(cfg[f'{split}_dataloader'], batch_size=size, **IN_PROCESS)
        loader['dataset'] = OneSample(loader['dataset'], host.sample, tmp_path, size)
        loaders[split] = runner.build_dataloader(loader)
    runner._train_dataloader = loaders['train']

    batch = next(iter(runner.train_loop.dataloader))
    runner.optim_wrapper = build_optimizer(cfg, model)
    runner.build_param_scheduler(cfg.param_scheduler)
    losses = model._run_forward(model.data_preprocessor(batch, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    runner.optim_wrapper.backward(loss)
    # a parameter without a gradient stops distributed training
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{key} has no gradient'
            assert parameter.grad.isfinite().all(), f'{key} has a gradient that is not finite'
    runner.optim_wrapper.step()

    (batch,) = loaders['test']
    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(batch)
    host.check(prediction, cfg)
