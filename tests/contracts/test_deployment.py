"""What hosts and torch make of a model, at a size that is no multiple of anything.

Every backbone is taken, and every neck and head with the backbone that it reads.
"""

import copy

import pytest
import torch
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.registry import MODELS
from rooms import BACKBONES, READERS, smallest_id
from torch import nn

CHAINS = {smallest_id(one): dict(backbone=one) for one in BACKBONES}
CHAINS |= {one['type']: dict(backbone=backbone, reader=one) for one, backbone in READERS}
HW = (61, 75)


class Chain(nn.Module):
    """A backbone, and what reads its output."""

    def __init__(self, **parts):
        super().__init__()
        for name, config in parts.items():
            if MODELS.get(config['type']) is None:
                pytest.skip(f'the host of {config["type"]} is not installed')
            self.add_module(name, MODELS.build(config))

    def forward(self, x):
        for part in self.children():
            x = part(x)
        x = x if isinstance(x, (tuple, list)) else (x,)
        return tuple(one if isinstance(one, torch.Tensor) else one.x for one in x)


@pytest.fixture(params=sorted(CHAINS))
def model(request, randomize):
    return randomize(Chain(**CHAINS[request.param])).eval()


def step(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs in eval mode, then the gradients of a training step."""
    with torch.no_grad():
        outputs = model.eval()(images)
    torch.manual_seed(1)
    loss = sum(one.square().mean() for one in model.train()(images))
    return [*outputs, *torch.autograd.grad(loss, list(model.parameters()))]


def assert_close(got, want):
    assert len(got) == len(want) > 0
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)


def test_efficient_conv_bn_eval(model):
    """The option traces modules symbolically; copies made afterwards are as good."""
    images, other = torch.randn(2, 3, *HW), torch.randn(2, 3, *HW)
    changed = copy.deepcopy(model)
    turn_on_efficient_conv_bn_eval(changed, [name for name, _ in model.named_children()])
    assert 'forward' in vars(changed.backbone)
    copied = copy.deepcopy(changed)
    assert_close(step(changed, images), step(model, images))
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.zero_()
    step(copied, images)  # the statistics of batch norms move as in the model
    assert_close(step(copied, other), step(model, other))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@torch.no_grad()
def test_traces(model):
    images, other = torch.randn(2, 2, 3, *HW)
    traced = torch.jit.trace(model, (images,), check_trace=False)
    assert_close(traced(other), model(other))


@pytest.mark.slow
@torch.no_grad()
def test_exports_with_any_batch(model):
    batch = torch.export.Dim('batch', min=1, max=8)
    exported = torch.export.export(
        model, (torch.randn(2, 3, *HW),), dynamic_shapes=({0: batch},)
    ).module()
    for size in (1, 3):
        images = torch.randn(size, 3, *HW)
        assert_close(exported(images), model(images))


@torch.no_grad()
def test_every_linear_can_be_quantised(model):
    images = torch.randn(2, 3, *HW)
    int8 = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    assert not any(type(module) is nn.Linear for module in int8.modules())
    for got, want in zip(int8(images), model(images)):
        assert got.shape == want.shape and got.isfinite().all()


@pytest.mark.parametrize(('device', 'batch'), [('cpu', 0), ('meta', 2)])
@torch.no_grad()
def test_no_image_and_no_memory(model, device, batch):
    shapes = [one.shape[1:] for one in model(torch.zeros(1, 3, *HW))]
    outputs = model.to(device)(torch.zeros(batch, 3, *HW, device=device))
    assert [one.shape for one in outputs] == [(batch, *shape) for shape in shapes]
