import pytest
import torch
from mmtoken import MTA, TCFormer
from mmtoken.tcformer import reference
from tcformer.smallest import TINY

DIMS = TINY['embed_dims']


def tokens(randomize, *hw):
    backbone = randomize(TCFormer(TINY)).double().eval()
    with torch.no_grad():
        return backbone(torch.randn(2, 3, *hw).double())


@pytest.fixture
def stages(randomize):
    return tokens(randomize, 45, 61)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(reduction='conv'),
        dict(reduction='cluster'),
        dict(reduction='cluster', gather_layer=True),
    ],
)
def test_equals_its_twin(arguments, randomize):
    stages = tokens(randomize, 29, 45)
    neck = randomize(MTA(DIMS, 8, 2, 2, **arguments).double().eval())
    leaves = [stage.x.clone().requires_grad_() for stage in stages]
    inputs = [stage.with_x(leaf) for stage, leaf in zip(stages, leaves)]
    fast, slow = neck(inputs), reference.mta(neck, inputs)
    probes = [torch.randn_like(level) for level in fast]
    leaves += list(neck.parameters())
    names = [f'level {i}' for i in range(4)] + [name for name, _ in neck.named_parameters()]
    grads = []
    for maps in (fast, slow):
        loss = sum((level * probe).sum() for level, probe in zip(maps, probes))
        grads.append(torch.autograd.grad(loss, leaves))
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b)
    for name, got, want in zip(names, *grads):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'gradient of {n}: {m}')


def test_published_parameter_counts():
    def count(neck):
        return sum(p.numel() for p in neck.parameters())

    assert count(MTA((64, 128, 320, 512))) == 2_666_240
    assert count(MTA((64, 128, 320, 512), reduction='conv')) == 8_173_568


def test_default_emits_every_level(stages):
    maps = MTA(DIMS, 8).double()(stages)
    assert [tuple(level.shape) for level in maps] == [
        (2, 8, 12, 16), (2, 8, 6, 8), (2, 8, 3, 4), (2, 8, 2, 2)
    ]  # fmt: skip


def test_out_levels_emit_the_same_map_alone(stages):
    everything = MTA(DIMS, 8).double()
    finest = MTA(DIMS, 8, out_levels=(0,)).double()
    finest.load_state_dict(everything.state_dict())
    assert torch.equal(finest(stages)[0], everything(stages)[0])
    assert len(finest(stages)) == 1


@pytest.mark.parametrize('extra', [False, True, 'on_input', 'on_output'])
@pytest.mark.parametrize('start_level', [0, 1])
def test_extra_levels_halve(stages, extra, start_level):
    levels = 4 - start_level
    neck = MTA(DIMS, 8, start_level=start_level, num_outs=levels + 2, add_extra_convs=extra)
    maps = neck.double()(stages)
    assert len(maps) == levels + 2
    assert [tuple(level.shape[2:]) for level in maps[-3:]] == [(2, 2), (1, 1), (1, 1)]
    sum(level.sum() for level in maps).backward()
    missing = [name for name, p in neck.named_parameters() if p.grad is None]
    assert not missing


def test_relu_before_extra_convs_changes_only_the_later_ones(stages):
    kinds = dict(num_outs=6, add_extra_convs='on_output')
    plain = MTA(DIMS, 8, **kinds).double()
    relu = MTA(DIMS, 8, relu_before_extra_convs=True, **kinds).double()
    relu.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.extra_convs[0].conv.bias.fill_(-5.0)
        relu.extra_convs[0].conv.bias.fill_(-5.0)
    a, b = plain(stages), relu(stages)
    assert all(torch.equal(x, y) for x, y in zip(a[:5], b[:5]))
    assert not torch.equal(a[5], b[5])


def test_end_level_leaves_the_last_stage_out(stages):
    neck = MTA(DIMS, 8, end_level=2).double()
    assert len(neck(stages)) == 3
    assert len(neck.lateral_convs) == 3


def test_unused_extra_convs_of_mmpose_are_tolerated():
    neck = MTA(DIMS, 8)
    state = neck.state_dict()
    state['extra_convs.0.conv.weight'] = torch.zeros(8, 32, 3, 3)
    neck.load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_heads=3), 'num_heads=3 and out_channels=8'),
        (dict(num_heads=(2, 2)), r'num_heads needs . entries, one per level .* got 2'),
        (dict(sr_ratios=(2, 1)), r'sr_ratios needs . entries, one per level .* got 2'),
        (dict(reduction='max'), "got 'max'"),
        (dict(add_extra_convs='on_lateral'), "got 'on_lateral'"),
        (dict(num_outs=3), 'at least the 4 levels in use, got 3'),
        (dict(start_level=4), r'0 <= start <= end < 4, got start_level=4'),
        (dict(end_level=4), r'end_level=4; in_channels has 4'),
        (dict(out_levels=(0, 4)), r'numbers in \[0, 3\] .* got \(0, 4\)'),
        (dict(out_levels=()), r'out_levels needs .* got 0'),
        (dict(out_levels=(1, 2)), r'out_levels must include 0, .* got \(1, 2\)'),
        (dict(gather_layer=True), "gather_layer needs reduction='cluster'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MTA(DIMS, 8, **arguments)


def test_misspelt_argument():
    with pytest.raises(TypeError, match='out_channel'):
        MTA(DIMS, out_channel=8)


def test_wrong_inputs(stages):
    neck = MTA(DIMS, 8).double()
    with pytest.raises(ValueError, match=r'4 levels .* got 3 levels with \(8, 16, 24\)'):
        neck(stages[:3])
    with pytest.raises(ValueError, match="got \\['Tensor'\\]; build TCFormer with out_type"):
        neck([stage.x for stage in stages])


@pytest.mark.parametrize('extra', [False, 'on_input', 'on_output'])
def test_maps_are_stored_as_the_hosts_operators_read_them(extra):
    """RoIAlign of mmcv ignores strides; a channels-last map would be read shuffled."""
    neck = MTA(TINY['embed_dims'], 16, num_heads=1, num_outs=5, add_extra_convs=extra)
    with torch.no_grad():
        maps = neck(TCFormer(TINY)(torch.randn(1, 3, 64, 64)))
    assert len(maps) == 5 and all(feature_map.is_contiguous() for feature_map in maps)
