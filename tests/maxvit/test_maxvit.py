"""The whole backbone: its twin, its partitions, its options."""

import copy

import pytest
import torch
from maxvit.smallest import RMLP, TINY
from mmtoken import MaxViT, record_tokens
from mmtoken.common.layers import DropPath
from mmtoken.maxvit import reference
from mmtoken.maxvit.forms import FORMS
from mmtoken.maxvit.partition import KINDS, plan_groups
from parity import check_equal
from torch import nn


def build(arch=TINY, **arguments):
    return MaxViT(arch, **arguments).double().eval()


def random_image(*hw, batch=1):
    return torch.randn(batch, 3, *hw, dtype=torch.float64)


@pytest.mark.parametrize('form', FORMS)
@torch.no_grad()
def test_equals_its_twin_in_every_form(form, randomize):
    model = randomize(build(dict(RMLP, form=form), window_size=3))
    image = random_image(33, 46)
    for got, want in zip(model(image), reference.maxvit(model, image, (3, 3))):
        torch.testing.assert_close(got, want, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    'arguments, size',
    [
        (dict(window_size=3), (3, 3)),
        (dict(partition='proportional', window_size=2), (1, 2)),
        (dict(partition=(4, 2)), (4, 2)),
    ],
)
def test_gradients_equal_those_of_the_twin(arguments, size, randomize):
    model = randomize(build(**arguments))
    image = random_image(18, 37, batch=2).requires_grad_()
    got, want = model(image), reference.maxvit(model, image, size)
    tensors = dict(model.named_parameters(), image=image)
    check_equal(*(torch.cat([x.flatten() for x in maps]) for maps in (got, want)), tensors)


@pytest.mark.parametrize('hw', [(32, 32), (1, 1), (33, 47), (75, 32), (31, 130)])
@torch.no_grad()
def test_any_size(hw):
    for partition in ('pad', 'proportional'):
        maps = build(partition=partition)(random_image(*hw))
        for feature_map, stride in zip(maps, (4, 8, 16, 32)):
            assert feature_map.shape[2:] == tuple(-(-side // stride) for side in hw)
            assert feature_map.isfinite().all()


@torch.no_grad()
def test_padding_is_hidden(randomize, monkeypatch):
    model, image = randomize(build()), random_image(45, 75)
    want = model(image)
    pad = nn.functional.pad
    filled = []

    def fill(x, widths):
        filled.append(x.dtype)
        # the padding of a map of what is real stays False
        return pad(x, widths, value=0 if x.dtype == torch.bool else 1e4)

    monkeypatch.setattr('mmtoken.maxvit.partition.F.pad', fill)
    assert all(map(torch.equal, model(image), want))
    assert torch.float64 in filled


@torch.no_grad()
def test_a_fixed_partition_is_the_proportional_one_at_its_size(randomize):
    """The table is resized at load in the one, in the forward pass in the other."""
    proportional = randomize(build(partition='proportional'))
    fixed = build(partition=(2, 3))
    fixed.load_state_dict(proportional.state_dict())
    assert fixed.stages[0]['blocks'][
        0
    ].attn_grid.attn.rel_pos.relative_position_bias_table.shape == (2, 3, 5)
    image = random_image(64, 96)
    for got, want in zip(fixed(image), proportional(image)):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    # and not that of another size
    other = build(partition=(3, 2))
    other.load_state_dict(proportional.state_dict())
    assert (other(image)[0] - proportional(image)[0]).abs().max() > 1e-3


def test_proportional_tables_follow_the_weights(randomize):
    """Nothing that depends on a parameter is kept between two passes."""
    model, image = randomize(build(partition='proportional')), random_image(64, 64)
    with torch.no_grad():
        before = model(image)[0]
        for module in model.modules():
            if hasattr(module, 'relative_position_bias_table'):
                module.relative_position_bias_table.neg_()
        assert (model(image)[0] - before).abs().max() > 1e-3


def test_drop_path_is_that_of_timm_on_all_five_branches(monkeypatch):
    model = MaxViT(TINY, drop_path_rate=0.4, window_size=3)
    rates = [m.drop_path for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([rate for rate in (0, 0.1, 0.2, 0.3, 0.4) for _ in range(3)])
    last = model.stages[3]['blocks'][0].train()
    plan = tuple(plan_groups(kind, (3, 2), (3, 3), torch.device('cpu')) for kind in KINDS)
    calls = []
    monkeypatch.setattr(DropPath, 'forward', lambda self, x: calls.append(x.shape) or 0 * x)
    x = torch.randn(1, 16, 6, 4)
    torch.testing.assert_close(last(x, plan), nn.functional.avg_pool2d(x, 2))
    assert len(calls) == 5


def test_norms_of_the_outputs():
    model = build(out_norm=True, out_indices=(1, 3))
    maps = model(random_image(64, 64))
    assert [name for name, _ in model.named_children()] == ['stem', 'stages', 'norm1', 'norm3']
    for feature_map in maps:
        torch.testing.assert_close(feature_map.mean(1), torch.zeros_like(feature_map[:, 0]))


def test_numerics_of_the_released_weights():
    norms = [m for m in build().modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))]
    assert {(type(m), m.eps) for m in norms} == {(nn.BatchNorm2d, 1e-3), (nn.LayerNorm, 1e-5)}
    assert {m.momentum for m in norms if isinstance(m, nn.BatchNorm2d)} == {0.01}


def test_batch_norms_can_be_synchronised():
    model = build()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in synced.modules()) == count > 0
    assert synced.state_dict().keys() == model.state_dict().keys()


@torch.no_grad()
def test_recording_changes_nothing(randomize):
    model, image = randomize(build()), random_image(45, 75, batch=2)
    want = model(image)
    with record_tokens(model) as recorder:
        got = model(image)
    assert len(recorder.attention) == 2 * sum(model.depths) == len(recorder.records)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    'name, value',
    [
        ('mmtoken.maxvit.block.MASK_NUMBERS', 3 * 2 * 49 * 49),  # three groups with two heads
        ('mmtoken.common.memory.map_chunks.__kwdefaults__', {'rows': 300}),
    ],
)
@torch.no_grad()
def test_chunks_change_nothing(name, value, randomize, monkeypatch):
    model, image = randomize(build()), random_image(75, 131, batch=2)
    want = model(image)
    monkeypatch.setattr(name, value)
    for a, b in zip(model(image), want):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


# -- other ways to run it


@pytest.mark.parametrize('arch, partition', [(TINY, 'proportional'), (RMLP, 'pad')])
def test_runs_on_a_fake_gpu(arch, partition, fake_gpu):
    """No tensor of another device, and no value that the host waits for."""
    with torch.device('meta'):
        model = MaxViT(arch, partition=partition, out_indices=(0, 1)).eval()
    with fake_gpu, torch.no_grad():
        maps = model.to_empty(device='cuda')(torch.zeros(2, 3, 45, 75, device='cuda'))
    assert all(x.device.type == 'cuda' for x in maps)


@pytest.mark.slow
@torch.no_grad()
def test_exports_with_any_batch(randomize):
    """With resized tables and padding: groups of 2x3 on a map of 12x19."""
    model = randomize(build(partition='proportional', out_indices=(0,)))
    image = random_image(45, 75, batch=2)
    batch = torch.export.Dim('batch', min=1, max=16)
    program = torch.export.export(model, (image,), dynamic_shapes={'image': {0: batch}}).module()
    for images in (image, random_image(45, 75, batch=3)):
        for got, want in zip(program(images), model(images)):
            torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_compiles_in_one_graph(randomize):
    model = randomize(build(partition='proportional', out_indices=(0,)))
    image = random_image(45, 75)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    for got, want in zip(compiled(image), model(image)):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


# -- invalid input


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(partition=(9, 9)), r'partition must not exceed the map at stride 4, 8x16 .*\(9, 9\)'),
        (dict(partition='global'), r"partition must be one of \('pad', 'proportional'\) or \(rows"),
        (dict(partition=(2, 3), window_size=7), 'window_size is .* needs one of the two'),
        (dict(rel_pos_drop_rate=0.1), "rel_pos_drop_rate needs an arch of the form 'rmlp'"),
        (dict(arch=dict(TINY, form='pt')), r"form must be one of \['tf', 'rw', .*got 'pt'"),
        (dict(arch=dict(TINY, head_dim=3)), 'head_dim must divide embed_dims, got head_dim=3'),
        (dict(arch=dict(TINY, stem_dims=64)), 'stem_dims needs 2 entries, one per convolution'),
        (dict(arch='tiny_tf'), r"arch must be one of \['base', .*got 'tiny_tf'"),
    ],
)
def test_invalid(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)(random_image(32, 64))
