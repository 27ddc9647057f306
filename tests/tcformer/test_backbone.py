import pytest
import torch
from mmtoken import MTA, TCFormer
from mmtoken.tcformer import reference
from mmtoken.tcformer.tokens import tokens_to_map
from tcformer.smallest import TINY

# the second block of a stage sees tokens of its own
ARCH = dict(TINY, depths=(1, 2, 1, 1))


@pytest.mark.parametrize('hw', [(32, 32), (37, 53), pytest.param((64, 33), marks=pytest.mark.slow)])
def test_equals_its_twin(hw, randomize):
    model = randomize(TCFormer(ARCH)).double().eval()
    image = torch.randn(2, 3, *hw, dtype=torch.float64, requires_grad=True)
    fast, slow = model(image), reference.tcformer(model, image)
    leaves = [image, *model.parameters()]
    names = ['image', *(name for name, _ in model.named_parameters())]
    probes = [torch.randn_like(stage.x) for stage in fast]
    grads = [
        torch.autograd.grad(
            sum((stage.x * probe).sum() for stage, probe in zip(stages, probes)), leaves
        )
        for stages in (fast, slow)
    ]
    for number, (a, b) in enumerate(zip(fast, slow), 1):
        assert torch.equal(a.assign_idx, b.assign_idx), f'stage {number}'
        torch.testing.assert_close(a.x, b.x, msg=lambda m, n=number: f'stage {n}: {m}')
    for name, got, want in zip(names, *grads):
        torch.testing.assert_close(got, want, msg=lambda m, n=name: f'gradient of {n}: {m}')


@pytest.mark.parametrize(
    ('arch', 'count', 'tensors'),
    [('light', 13_718_659, 191), ('base', 25_081_731, 354), ('large', 62_305_923, 879)],
)
def test_published_sizes(arch, count, tensors):
    with torch.device('meta'):
        model = TCFormer(arch)
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.state_dict()) == tensors


def test_maps_are_the_tokens_on_a_grid(randomize):
    model = randomize(TCFormer(ARCH, out_indices=(1, 3))).eval()
    image = torch.randn(1, 3, 48, 64)
    tokens = model(image)
    model.out_type = 'maps'
    for level, feature_map in zip(tokens, model(image)):
        assert torch.equal(tokens_to_map(level), feature_map)


@pytest.mark.parametrize('size', [(64, 64), (96, 64), (67, 93)])
def test_local_parts_load_the_same_weights_and_give_another_function(size, randomize):
    whole = randomize(TCFormer(ARCH)).eval()
    local = TCFormer(ARCH, local_parts=(4, 2, 1)).eval()
    local.load_state_dict(whole.state_dict(), strict=True)
    image = torch.randn(2, 3, *size)
    a, b = whole(image), local(image)
    assert not torch.equal(a[1].assign_idx, b[1].assign_idx)
    for i in range(4):
        assert b[i].x.isfinite().all()
        counts = torch.zeros(2, b[i].num_tokens).scatter_add_(
            1, b[i].assign_idx, torch.ones_like(b[i].assign_idx, dtype=torch.float)
        )
        assert (counts > 0).all()  # every token owns a cell


def test_one_part_per_side_is_the_published_function(randomize):
    whole = randomize(TCFormer(ARCH)).eval()
    local = TCFormer(ARCH, local_parts=(1, 1, 1)).eval()
    local.load_state_dict(whole.state_dict())
    image = torch.randn(1, 3, 64, 48)
    for a, b in zip(whole(image), local(image)):
        assert torch.equal(a.x, b.x)


@pytest.mark.parametrize('neighbors', [2, 5])
@pytest.mark.parametrize('ratio', [0.25, 1.0])
@pytest.mark.parametrize('local_parts', [None, (4, 2, 1)])
def test_sample_does_not_depend_on_its_batch_or_layout(local_parts, ratio, neighbors, randomize):
    options = dict(sample_ratios=(ratio,) * 3, num_neighbors=neighbors, local_parts=local_parts)
    model = randomize(TCFormer(ARCH, out_type='maps', **options)).double().eval()
    image = torch.randn(3, 3, 32, 48, dtype=torch.float64)
    image[1:, :, :, 24:] = 0.3  # a letterbox
    image[2, :, :16] = -0.5
    together = model(image)
    for i in range(3):
        alone = image[i : i + 1]
        for sample in (alone, alone.contiguous(memory_format=torch.channels_last)):
            for a, b in zip(together, model(sample)):
                torch.testing.assert_close(a[i], b[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize('local_parts', [(4, 2, 1)])
class TestDeployment:
    """What tests/contracts/test_deployment.py checks, with local parts."""

    @staticmethod
    def build(local_parts):
        backbone = TCFormer(TINY, local_parts=local_parts)
        return torch.nn.Sequential(backbone, MTA(TINY['embed_dims'], 8, 2, 2)).eval()

    shapes = staticmethod(lambda maps: [tuple(feature_map.shape) for feature_map in maps])

    def test_empty_batch(self, local_parts):
        model = self.build(local_parts)
        want = [(0, *shape[1:]) for shape in self.shapes(model(torch.zeros(1, 3, 61, 75)))]
        for mode in (True, False):
            assert self.shapes(model.train(mode)(torch.zeros(0, 3, 61, 75))) == want

    def test_meta_device(self, local_parts):
        model, image = self.build(local_parts), torch.zeros(2, 3, 61, 75)
        want = self.shapes(model(image))
        assert self.shapes(model.to('meta')(image.to('meta'))) == want

    def test_quantised(self, local_parts):
        model, image = self.build(local_parts), torch.randn(2, 3, 61, 75)
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
        assert all(feature_map.isfinite().all() for feature_map in quantised(image))

    @pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
    def test_traced(self, local_parts):
        model = self.build(local_parts)
        traced = torch.jit.trace(model, torch.randn(1, 3, 61, 75), check_trace=False)
        other = torch.randn(1, 3, 61, 75)
        for a, b in zip(traced(other), model(other)):
            torch.testing.assert_close(a, b)


def test_noise_in_training_only_and_only_when_asked_for():
    image = torch.randn(1, 3, 64, 64)
    noisy = TCFormer(ARCH, density_noise=1.0)
    assert not torch.equal(noisy(image)[3].x, noisy(image)[3].x)
    noisy.eval()
    assert torch.equal(noisy(image)[3].x, noisy(image)[3].x)
    plain = TCFormer(ARCH)
    assert torch.equal(plain(image)[3].x, plain(image)[3].x)


def test_mmpose_names_of_the_patch_embedding_load():
    model = TCFormer(ARCH)
    state = {
        key.replace('patch_embed1.proj.', 'patch_embed1.projection.'): value + 1
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.patch_embed1.proj.bias, state['patch_embed1.projection.bias'])


def test_large_state_loads_into_a_model_without_its_last_stages():
    small = TCFormer(ARCH, out_indices=(0, 1))
    assert not hasattr(small, 'block3')
    small.load_state_dict(TCFormer(ARCH).state_dict(), strict=True)


def test_runs_compiled_without_a_graph_break(randomize):
    # the first merge is on the grid, the second is not
    arch = dict(ARCH, depths=(1, 1, 1, 1))
    model = randomize(TCFormer(arch, out_type='maps', out_indices=(0, 2))).eval()
    image = torch.randn(1, 3, 40, 56)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for a, b in zip(compiled(image), model(image)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='huge'), r"one of \['base', 'large', 'light'\].* got 'huge'"),
        (dict(arch=dict(ARCH, depth=1)), r"unknown \['depth'\]"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), r"missing \['embed_dims', 'mlp_ratios'"),
        (dict(arch=dict(ARCH, depths=(1, 1))), r'depths needs 4 entries, one per stage, got 2'),
        (dict(arch=dict(ARCH, num_heads=(1, 3, 3, 4))), 'num_heads=3 and embed_dims=16'),
        (dict(out_type='map'), r"out_type must be one of .* got 'map'"),
        (dict(out_indices=(0, 4)), r'in \[0, 3\], got \(0, 4\)'),
        (dict(out_indices=(2, 1)), r'ascending stage indices .* got \(2, 1\)'),
        (dict(out_indices=()), r'got \(\)'),
        (dict(frozen_stages=5), r'in \[-1, 4\], got 5'),
        (dict(sample_ratios=(0.25, 0.25)), '3 entries, one per transition, got 2'),
        (
            dict(sample_ratios=(0.25, 0.25, 1.5)),
            r'sample_ratios .* in \(0, 1\], got 1.5',
        ),
        (dict(num_neighbors=0), 'num_neighbors must be a whole number >= 1, got 0'),
        (dict(density_noise=-1.0), r'density_noise must be a number in \[0, inf\), got -1.0'),
        (dict(local_parts=(4, 3, 1)), r'divisible by the next, got \(4, 3, 1\)'),
        (dict(local_parts=(4, 2)), '3 entries, one per transition, got 2'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be a number in \[0, 1\), got 1.0'),
        (dict(drop_rate=-0.1), r'drop_rate must be a number in \[0, 1\), got -0.1'),
    ],
)
def test_bad_arguments(arguments, message):
    arguments.setdefault('arch', ARCH)
    with pytest.raises(ValueError, match=message):
        TCFormer(**arguments)


def test_misspelt_argument():
    with pytest.raises(TypeError, match='drop_path_rat'):
        TCFormer(ARCH, drop_path_rat=0.1)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((1, 4, 64, 64), r'in_channels=3 channels, got 4'),
        ((1, 3, 28, 64), r'at least 29 pixels \(from sr_ratios\), got 28x64'),
        ((3, 64, 64), r'shape \(B, C, H, W\), got \(3, 64, 64\)'),
    ],
)
def test_bad_images(shape, message):
    with pytest.raises(ValueError, match=message):
        TCFormer(ARCH)(torch.zeros(shape))


def test_smallest_image_that_the_arithmetic_allows():
    model = TCFormer(ARCH).eval()
    assert [stage.hw for stage in model(torch.randn(1, 3, 29, 29))] == [
        (8, 8), (4, 4), (2, 2), (1, 1)
    ]  # fmt: skip


def test_image_too_small_for_the_parts():
    with pytest.raises(ValueError, match=r'local_parts=\(16, 2, 1\) needs .* 16x16, got 12x12'):
        TCFormer(ARCH, local_parts=(16, 2, 1))(torch.zeros(1, 3, 48, 48))


def test_mean_over_tokens(randomize):
    """Of every stage; released classifiers weigh all tokens alike, whatever their area."""
    model, image = randomize(TCFormer(TINY)).double().eval(), torch.randn(2, 3, 61, 75).double()
    with torch.no_grad():
        want = [tokens.x.mean(1) for tokens in model(image)]
        model.out_type = 'mean'
        for got, mean in zip(model(image), want):
            assert torch.equal(got, mean)
