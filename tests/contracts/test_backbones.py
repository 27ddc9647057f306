"""The contract of design section 3 over every backbone that is registered by mmtoken."""

import contextlib
from functools import cache

import mmtoken
import pytest
import torch
from mmengine.registry import MODELS
from mmtoken.common.backbone import Backbone, resolve_arch
from mmtoken.common.recorder import record_tokens
from rooms import BACKBONES, smallest_id
from torch import nn

NAMES = {smallest_id(backbone): backbone for backbone in BACKBONES}


def build(name, **arguments):
    return MODELS.build(dict(NAMES[name], **arguments))


@cache
def num_stages(name):
    """The smallest backbones return all of their stages."""
    return len(build(name).depths)


def stages_of(name, *wanted):
    """Those of the wanted stages that the backbone has."""
    return tuple(stage for stage in wanted if stage < num_stages(name))


@pytest.fixture(params=sorted(NAMES))
def name(request):
    return request.param


def test_every_backbone_is_listed():
    ours = {
        key
        for key, module in MODELS.module_dict.items()
        if isinstance(module, type)
        and issubclass(module, Backbone)
        and module is not Backbone
        and module.__module__.startswith(mmtoken.__name__)
    }
    assert ours <= {backbone['type'] for backbone in BACKBONES}


@pytest.mark.parametrize(
    ('batch', 'hw'), [(1, (32, 32)), (2, (37, 53)), (1, (224, 224)), (2, (64, 160))]
)
def test_shapes_are_as_declared(name, batch, hw):
    model = build(name, out_indices=stages_of(name, 0, 2, 3)).eval()
    with torch.no_grad():
        maps = model(torch.randn(batch, 3, *hw))
    assert isinstance(maps, tuple)
    assert len(maps) == len(model.out_indices) == len(model.out_channels)
    for index, (feature_map, channels) in enumerate(zip(maps, model.out_channels)):
        assert feature_map.shape == (batch, channels, *model.out_size(index, hw))
        assert feature_map.isfinite().all()
        # mmcv's RoIAlign reads the memory without looking at the strides
        assert feature_map.is_contiguous()
    assert list(model.out_strides) == sorted(model.out_strides)


def test_eval_is_bitwise_repeatable(name, randomize):
    model, image = randomize(build(name)).eval(), torch.randn(2, 3, 61, 47)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(image), model(image)))


def test_sample_does_not_depend_on_its_batch(name, randomize):
    model = randomize(build(name)).double().eval()
    image = torch.randn(3, 3, 61, 47, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(model(image), model(image[1:2])):
            torch.testing.assert_close(a[1:2], b, atol=1e-10, rtol=0)


@pytest.mark.parametrize('out_indices', [(0, 1, 2, 3), (0, 1), (2,)])
def test_every_parameter_gets_a_finite_gradient(name, out_indices):
    model = build(name, out_indices=stages_of(name, *out_indices) or (1,))
    sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 48))).backward()
    bad = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not bad


def test_checkpointing_changes_nothing(name, randomize):
    plain, cp = randomize(build(name)).double(), build(name, with_cp=True).double()
    cp.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    for model in (plain, cp):
        sum(m.square().mean() for m in model(image)).backward()
    for (key, p), q in zip(plain.named_parameters(), cp.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda m, k=key: f'{k}: {m}')


@pytest.mark.parametrize('with_cp', [False, True])
def test_what_was_recorded_can_be_trained(name, with_cp, randomize):
    """The backward pass may come when nobody records any more."""
    model = randomize(build(name, with_cp=with_cp)).double()
    image = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    gradients = []
    for recording in (contextlib.nullcontext(), record_tokens(model)):
        with recording:
            loss = sum(m.square().mean() for m in model(image))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for want, got in zip(*gradients):
        torch.testing.assert_close(got, want)


def test_checkpointing_with_drop_path_replays_the_same_choice(name):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        model = build(name, with_cp=with_cp, drop_path_rate=0.9).double()
        sum(m.square().mean() for m in model(torch.randn(4, 3, 40, 56).double())).backward()
        gradients.append([p.grad for p in model.parameters()])
    for want, got in zip(*gradients):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 4])
def test_frozen_stages_stay_frozen(name, frozen):
    frozen = min(frozen, num_stages(name))
    model = build(name, frozen_stages=frozen)
    for _ in range(2):
        model.train()  # a runner calls it before every epoch
        depths = {
            p: model.get_layer_depth(p)[0]
            for p, v in model.named_parameters()
            if not v.requires_grad
        }
        last = sum(model.depths[: max(frozen, 0)])
        expected = {
            p
            for p, _ in model.named_parameters()
            if frozen >= 0 and model.get_layer_depth(p)[0] <= last
        }
        assert set(depths) == expected
        assert all(not m.training for m in model._frozen_modules())
    # a batch norm on a map of one pixel needs two images
    image = torch.randn(2, 3, 32, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(1))], 0.1
    )
    if frozen < num_stages(name):
        sum(m.square().sum() for m in model(image)).backward()
        optimizer.step()
    assert all(torch.equal(before[k], model.state_dict()[k]) for k in expected)


def test_layer_depth_covers_every_parameter_in_order(name):
    model = build(name)
    depths = [model.get_layer_depth(p) for p, _ in model.named_parameters()]
    assert {total for _, total in depths} == {sum(model.depths) + 2}
    # a norm that several outputs share belongs to no block
    assert {d for d, _ in depths} - {sum(model.depths) + 1} == set(range(sum(model.depths) + 1))
    assert model.get_layer_depth('head.weight', 'backbone.') == (
        sum(model.depths) + 1,
        sum(model.depths) + 2,
    )
    assert model.get_layer_depth('backbone.' + next(iter(model.state_dict())), 'backbone.')[0] == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_stays_near_float32(name, dtype):
    model, image = build(name).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = model(image)[0]
        with torch.autocast('cpu', dtype):
            got = model(image)
    assert all(m.isfinite().all() for m in got)
    # before the first clustering nothing is discontinuous
    assert (got[0].float() - want).abs().max() < 0.1


@pytest.mark.slow
def test_trains_compiled_with_inductor(name, randomize):
    """One graph; outputs and gradients are those of the module, at an odd size.

    In float32, because compiled attention has no gradient in float64 on a CPU (torch 2.12).
    """
    model, image = randomize(build(name)).eval(), torch.randn(2, 3, 70, 91)

    def step(call):
        model.zero_grad()
        maps = call(image)
        sum(feature_map.square().mean() for feature_map in maps).backward()
        return maps, {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    want, got = step(model), step(torch.compile(model, fullgraph=True))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_model_runs(name, dtype):
    model = build(name).to(dtype).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 64).to(dtype))
    assert all(m.dtype == dtype and m.isfinite().all() for m in maps)


def test_empty_values_are_never_read(name, monkeypatch):
    """Fill what torch.empty returns with NaN: reading it unwritten would show."""
    model, image = build(name).eval(), torch.randn(1, 3, 45, 37)
    real = torch.empty

    def poisoned(*args, **kwargs):
        made = real(*args, **kwargs)
        return made.fill_(float('nan')) if made.is_floating_point() else made

    monkeypatch.setattr(torch, 'empty', poisoned)
    with torch.no_grad():
        assert all(m.isfinite().all() for m in model(image))


@pytest.mark.gpu
def test_runs_the_same_on_a_gpu(name, randomize, cuda):
    model, image = randomize(build(name)).double().eval(), torch.randn(2, 3, 61, 47).double()
    with torch.no_grad():
        want = model(image)
        got = model.to(cuda)(image.to(cuda))
    for a, b in zip(got, want):
        torch.testing.assert_close(a.cpu(), b, atol=1e-8, rtol=0)


def test_resolve_arch_returns_a_copy():
    archs = {'a': dict(depth=1)}
    resolve_arch('a', archs, ['depth'])['depth'] = 2
    assert archs['a'] == dict(depth=1)


def test_regions_are_cut_out_of_the_right_places(name, randomize):
    """RoIAlign of the host sees the same map as PyTorch does."""
    ops = pytest.importorskip('mmcv.ops')
    model = randomize(build(name)).eval()
    with torch.no_grad():
        feature_map = model(torch.randn(1, 3, 64, 64))[0]
    whole = torch.tensor([[0.0, 0.0, 0.0, 64.0, 64.0]])
    cells = feature_map.shape[-1]
    cut = ops.roi_align(feature_map, whole, (cells, cells), cells / 64, 1, 'avg', True)
    torch.testing.assert_close(cut, feature_map)
