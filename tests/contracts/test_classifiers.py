"""ImageNet recipes: sizes, learning rates, weight decay and schedules, as they are built."""

import pytest
import torch
import yaml
from mmengine.registry import PARAM_SCHEDULERS
from shipped import CONFIGS, build_optimizer, built, load, name

IMAGENET = [path for path in CONFIGS if path.stem.endswith('_in1k')]
ITERATIONS = 10  # of a made-up epoch
every_recipe = pytest.mark.parametrize('path', IMAGENET, ids=name)


@every_recipe
def test_parameters_are_those_of_the_metafile(path):
    models = yaml.safe_load((path.parent / 'metafile.yml').read_text(encoding='utf-8'))['Models']
    (stated,) = (m['Metadata']['Parameters (M)'] for m in models if m['Name'] == path.stem)
    count = sum(parameter.numel() for parameter in built(path).parameters())
    assert round(count / 1e6, 3) == stated
    row = next(
        line
        for line in (path.parent / 'README.md').read_text().splitlines()
        if f'`{path.stem}`' in line
    )
    assert f'| {stated:.3f} |' in row


@every_recipe
def test_learning_rate_is_that_of_the_batch_size(path):
    """5e-4 per 512 images, on as many GPUs as the name of the file says."""
    cfg = load(path)
    devices, images = map(int, path.stem.split('_')[1].split('xb'))
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == devices * images
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-4 * devices * images / 512)


@every_recipe
def test_vectors_positions_and_tables_are_not_decayed(path):
    decayed = {
        id(p)
        for group in build_optimizer(load(path), built(path)).optimizer.param_groups
        for p in group['params']
        if group['weight_decay']
    }
    words = ('token', 'pos_embed', 'center', 'relative_position_bias_table')
    for key, parameter in built(path).named_parameters():
        spared = parameter.ndim == 1 or key.rpartition('.')[2].endswith(words)
        assert (id(parameter) in decayed) != spared, key


def test_schedules_warm_up_and_end_as_stated():
    """From 1e-6 to 1e-3 in 5 or 20 epochs, then to 1e-5 in the rest of 300."""
    recipes = {repr(cfg.param_scheduler): cfg for cfg in map(load, IMAGENET)}
    for cfg in recipes.values():
        rates = learning_rates(cfg)
        peak = rates.index(max(rates))
        assert (peak + 1) / ITERATIONS in (5, 20) and len(rates) == 300 * ITERATIONS
        assert rates[0] == pytest.approx(1e-6)
        assert rates[peak] == pytest.approx(1e-3)
        assert rates[-1] == pytest.approx(1e-5, rel=0.01)


def learning_rates(cfg) -> list[float]:
    """The learning rate of every iteration."""
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], cfg.optim_wrapper.optimizer.lr
    )
    epochs = cfg.train_cfg.max_epochs
    schedulers = []
    for one in cfg.param_scheduler:
        arguments = dict(one, optimizer=optimizer)
        arguments.pop('_scope_', None)
        arguments.setdefault('end', epochs)
        if arguments.pop('convert_to_iter_based', False):
            cls = PARAM_SCHEDULERS.get(arguments.pop('type'))
            schedulers.append(cls.build_iter_from_epoch(**arguments, epoch_length=ITERATIONS))
        else:
            schedulers.append(PARAM_SCHEDULERS.build(arguments))
    rates = []
    for iteration in range(epochs * ITERATIONS):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % ITERATIONS == 0:
                scheduler.step()
    return rates
