"""Random backbones on random inputs.

python tests/fuzz.py --cases 10000 [--seed N]

Each case has its own seed, which is printed with a failure; ``--seed N --cases 1`` repeats it.
A case builds one of the smallest backbones with random options and checks, in float64, that

- outputs are finite and have the declared shapes, also for an empty batch;
- evaluation is repeatable, and independent of the batch and of the memory layout of the images;
- recomputation (``with_cp``) leaves gradients unchanged, and every parameter gets one;
- a copy, a pickle and a loaded state dict compute the same;
- arguments and images that are refused raise a ValueError.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import random
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))  # when run as a script
from rooms import BACKBONES, SMALLEST
from shared_fixtures import randomize

TOLERANCE = 1e-9
OPTIONS = {
    kind: options
    for room in SMALLEST.values()
    for kind, options in getattr(room, 'OPTIONS', {}).items()
}


def random_config(rng: random.Random) -> dict:
    """A smallest backbone, each of its options at random with probability 1/2."""
    config = dict(rng.choice(BACKBONES))
    stages = len(MODELS.build(config).depths)
    config['out_indices'] = sorted(rng.sample(range(stages), rng.randint(1, stages)))
    config['frozen_stages'] = rng.choice([-1, -1, 0, 1])
    config['norm_eval'] = rng.random() < 0.2
    for name, values in OPTIONS.get(config['type'], {}).items():
        if rng.random() < 0.5:
            config[name] = rng.choice(values)
    return config


def random_images(rng: random.Random) -> Tensor:
    """Images of a random size, batch size and content; some are flat."""
    hw = (rng.randint(24, 130), rng.randint(24, 130))
    images = torch.randn(rng.randint(1, 3), 3, *hw, dtype=torch.float64)
    if rng.random() < 0.2:
        images[:, :, hw[0] // 2 :] = 0
    return images


def layouts(images: Tensor) -> list[Tensor]:
    """The same images in other memory layouts."""
    wide = torch.empty(*images.shape[:3], 2 * images.shape[3], dtype=images.dtype)
    wide[..., ::2] = images
    return [images.contiguous(memory_format=torch.channels_last), wide[..., ::2]]


def difference(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """Largest absolute difference of two tuples of maps."""
    assert [x.shape for x in a] == [x.shape for x in b]
    return max((float((x - y).abs().max()) for x, y in zip(a, b) if x.numel()), default=0.0)


def check_outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Shapes, repeatability, independence of batch and layout."""
    maps = model(images)
    for index, (found, channels) in enumerate(zip(maps, model.out_channels)):
        expected = (len(images), channels, *model.out_size(index, tuple(images.shape[2:])))
        assert found.shape == expected, f'{tuple(found.shape)} instead of {expected}'
        assert found.isfinite().all(), 'not finite'
        assert found.is_contiguous(), 'not contiguous'
    assert all(map(torch.equal, model(images), maps)), 'not repeatable'
    for layout in layouts(images):
        assert difference(model(layout), maps) < TOLERANCE, 'depends on the memory layout'
    last = model(images[-1:])
    assert difference(last, tuple(x[-1:] for x in maps)) < TOLERANCE, 'depends on the batch'
    empty = model(images[:0])
    assert [x.shape[1:] for x in empty] == [x.shape[1:] for x in maps], 'shape of an empty batch'
    return maps


def check_copies(config: dict, model: nn.Module, images: Tensor, maps: tuple[Tensor, ...]) -> None:
    """Copies compute the same."""
    loaded = MODELS.build(config).double().eval()
    loaded.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert all(map(torch.equal, other(images), maps)), 'a copy computes something else'


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Gradients of all trainable parameters after one step in training mode."""
    loss = sum(x.square().mean() for x in model.train()(images))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        return {}
    found = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    return dict(zip(names, found))


def run_case(seed: int) -> str:
    """Run one case; returns what became of it: ``'refused'`` or the type of the backbone."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    try:
        config = random_config(rng)
        model = randomize(MODELS.build(config)).double().eval()
        images = random_images(rng)
        with torch.no_grad():
            maps = check_outputs(model, images)
            check_copies(config, model, images, maps)
    except ValueError as error:
        assert 'must' in str(error) or 'need' in str(error), f'no rule in {error}'
        return 'refused'
    pair = torch.cat((images, images.flip(3)))  # batch norms of one pixel need two images
    plain = gradients(copy.deepcopy(model), pair)
    saving = MODELS.build(dict(config, with_cp=True)).double()
    saving.load_state_dict(model.state_dict())
    for name, gradient in gradients(saving, pair).items():
        assert gradient.isfinite().all(), f'gradient of {name} is not finite'
        assert torch.allclose(gradient, plain[name], 1e-7, 1e-9), f'with_cp changes {name}'
    return config['type']


def main() -> None:
    """Run cases and count them by outcome."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=1000, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the first case (%(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    for seed in tqdm(range(args.seed, args.seed + args.cases), mininterval=5):
        try:
            outcomes[run_case(seed)] += 1
        except Exception:
            outcomes['failed'] += 1
            config = random_config(random.Random(seed))
            tqdm.write(f'seed {seed}: {config}\n{traceback.format_exc(limit=-2)}')
    print(dict(outcomes))
    sys.exit(outcomes['failed'] > 0)


if __name__ == '__main__':
    main()
