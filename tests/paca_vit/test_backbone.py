import pytest
import torch
from mmengine.registry import MODELS
from mmtoken import PaCaViT, record_tokens
from mmtoken.common.strict_load import load_state_dict_strict
from mmtoken.paca_vit import reference
from mmtoken.paca_vit.layers import PaCaMlp
from paca_vit.smallest import CLUSTERS, TEACHER, TINY
from parity import check_equal
from torch import nn


def build(**arguments):
    arguments.setdefault('num_clusters', CLUSTERS)
    return PaCaViT(arguments.pop('arch', TINY), **arguments)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(clustering='mlp'),
        dict(clustering='linear', share='block'),
        dict(num_clusters=(7, 7, 7, 7), share=2),
        dict(arch=TEACHER, num_clusters=(4, 4, 4, 4)),
    ],
    ids=['conv', 'mlp', 'linear', 'every-2nd', 'teacher'],
)
def test_equals_the_loops_with_gradients(arguments, randomize, monkeypatch):
    model = randomize(build(**arguments).double()).eval()
    image = torch.randn(1, 3, 21, 18, dtype=torch.float64, requires_grad=True)
    fast = model(image)
    weights = [torch.randn_like(x) for x in fast]
    names = [name for name, p in model.named_parameters()]
    inputs = (image, *model.parameters())
    got = torch.autograd.grad(sum((a * b).sum() for a, b in zip(fast, weights)), inputs)

    attention = 'mmtoken.paca_vit.attention.PatchToClusterAttention.forward'
    monkeypatch.setattr(attention, reference.patch_to_cluster_attention)
    monkeypatch.setattr(
        'mmtoken.paca_vit.teacher.ConvMixerTeacher._top_down', reference.mix_top_down
    )
    slow = model(image)
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b)
    want = torch.autograd.grad(sum((a * b).sum() for a, b in zip(slow, weights)), inputs)
    for name, a, b in zip(['image', *names], got, want):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6, msg=lambda m, n=name: f'{n}: {m}')


def test_one_assignment_per_stage_is_shared(randomize):
    model = randomize(build())
    with record_tokens(model) as rec, torch.no_grad():
        model(torch.randn(2, 3, 40, 56))
    assert [one.hw for one in rec.records] == [(10, 14), (5, 7), (3, 4)]
    assert [one.assign.shape for one in rec.records] == [(2, 5, 140), (2, 4, 35), (2, 3, 12)]
    assert rec.attention['stage1.1.attn'].shape == (2, 1, 140, 5)
    assert rec.attention['stage4.0.attn'].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ('share', 'blocks'), [('stage', [0]), ('block', [0, 1, 2, 3]), (2, [0, 2])]
)
def test_share_says_which_blocks_cluster(share, blocks, randomize):
    model = randomize(build(arch=dict(TINY, depths=(4, 1, 1, 1)), share=share))
    with record_tokens(model) as rec, torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert [one.block for one in rec.records if one.stage == 1] == blocks
    clusterings = {
        k.split('.')[1] for k in model.state_dict() if 'stage1' in k and 'clustering' in k
    }
    assert clusterings == {str(i) for i in blocks}


def test_recording_changes_nothing(randomize):
    model, image = randomize(build().double()), torch.randn(1, 3, 37, 53).double()
    with torch.no_grad():
        plain = model(image)
        with record_tokens(model):
            recorded = model(image)
    for a, b in zip(plain, recorded):
        torch.testing.assert_close(a, b)


def test_more_clusters_than_patches(randomize):
    model = randomize(build(num_clusters=(100, 100, 100, 100)))
    maps = model(torch.randn(1, 3, 9, 17))
    assert maps[-1].shape == (1, 24, 1, 1)
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize('name', ['tiny', 'base_teacher'])
def test_arch_table_is_not_changed_by_a_build(name):
    with torch.device('meta'):
        first, second = (PaCaViT(name).state_dict() for _ in range(2))
    assert list(first) == list(second)


def test_dropouts_take_effect():
    model, image = build(drop_rate=0.5), torch.randn(1, 3, 32, 32)
    assert not torch.equal(model(image)[0], model(image)[0])


@pytest.mark.parametrize('share', ['stage', 'block'])
@pytest.mark.parametrize('clustering', ['conv', 'mlp', 'linear'])
def test_final_clustering_layers_are_named(clustering, share):
    model = build(clustering=clustering, share=share)
    last = {'conv': 4, 'mlp': 2, 'linear': 0}[clustering]
    assert len(model.final_clustering_layers()) == (5 if share == 'block' else 3)
    for name in model.final_clustering_layers():
        assert name.endswith(f'clustering.{last}')
        assert model.get_submodule(name).weight.shape[0] in CLUSTERS


@pytest.mark.parametrize('arch', [TINY, TEACHER], ids=['conv', 'teacher'])
def test_overridden_counts_keep_exactly_the_final_layers(arch, randomize):
    counts = (5, 5, 5, 5)
    released = randomize(PaCaViT(arch, num_clusters=counts)).state_dict()
    model = PaCaViT(arch, num_clusters=(9, 5, 7, 5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_state_dict_strict(model, released)
    stage1, _, stage3, _ = model.final_clustering_layers()
    expected = [k for k in before if k.startswith((stage1 + '.', stage3 + '.'))]
    assert sorted(report.reinitialized) == sorted(expected)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in expected else released[key]), key


def test_counts_that_nobody_gave_must_fit():
    arch = dict(TINY)
    segmentation = PaCaViT(arch, num_clusters=(200, 200, 200, 0)).state_dict()
    with pytest.raises(ValueError, match=r'clustering\.4\.weight: \(200, 8, 1, 1\) -> \(100, 8'):
        load_state_dict_strict(PaCaViT(arch), segmentation)


def test_more_than_the_counts_is_no_declared_difference():
    wider = PaCaViT(dict(TINY, embed_dims=(16, 12, 16, 24)), num_clusters=CLUSTERS).state_dict()
    with pytest.raises(ValueError, match='mismatched'):
        load_state_dict_strict(build(), wider)


def test_classification_weights_load_without_their_head(tmp_path):
    state = {'head.weight': torch.zeros(10, 24), 'head.bias': torch.zeros(10)}
    donor = build()
    torch.save({'state_dict': {**donor.state_dict(), **state}}, tmp_path / 'w.pth')
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth')))
    model.init_weights()
    for key, value in model.state_dict().items():
        assert torch.equal(value, donor.state_dict()[key])


def test_a_file_without_the_fixed_blur_filter_loads(randomize):
    donor = PaCaViT(TEACHER, num_clusters=(4,) * 4).state_dict()
    lean = {key: value for key, value in donor.items() if not key.endswith('blur_filter')}
    report = load_state_dict_strict(PaCaViT(TEACHER, num_clusters=(4,) * 4), lean)
    assert not report.missing


@pytest.mark.parametrize('arch', [TINY, TEACHER], ids=['conv', 'teacher'])
def test_weights_of_all_stages_load_into_fewer(arch):
    counts = (3, 3, 3, 3)
    full = PaCaViT(arch, num_clusters=counts)
    part = PaCaViT(arch, num_clusters=counts, out_indices=(0, 1))
    load_state_dict_strict(part, full.state_dict())
    image = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        for a, b in zip(part.eval()(image), full.eval()(image)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(num_clusters=(100, 100, 0)),
            r'num_clusters needs 4 entries, one per stage, got 3',
        ),
        (dict(num_clusters=(100, -1, 5, 0)), 'num_clusters must be a whole number >= 0, got -1'),
        (dict(num_clusters=(100, 2.5, 5, 0)), 'num_clusters must be a whole number >= 0, got 2.5'),
        (dict(num_clusters=(True, 2, 5, 0)), 'num_clusters must be a whole number >= 0, got True'),
        (
            dict(arch=TEACHER, num_clusters=(4, 4, 4, 0)),
            r'num_clusters must be above 0 .*\(4, 4, 4, 0\)',
        ),
        (dict(clustering='kmeans'), r"clustering must be one of \[.*'teacher'\], got 'kmeans'"),
        (dict(clustering='teacher'), r'teacher_depths need each other'),
        (
            dict(arch='small_teacher', clustering='conv'),
            r"teacher_depths need each other, got clustering='conv' and arch=.*teacher_depths",
        ),
        (dict(arch='huge'), r"arch must be one of .*got 'huge'"),
        (dict(arch=dict(TINY, depth=3)), r"unknown \['depth'\]"),
        (dict(arch=dict(TINY, num_heads=(3, 2, 2, 3))), r'num_heads=3 and embed_dims=8'),
        (dict(share='blocks'), r"share must be one of \['stage', 'block'\], got 'blocks'"),
        (dict(share=0), 'share must be a whole number >= 1, got 0'),
        (dict(share=1.5), 'share must be a whole number >= 1, got 1.5'),
        (dict(arch=None), 'arch must be one of .* got None'),
        (dict(arch=dict(TINY, depths=(1, 0, 1, 1))), 'depths must be a whole number >= 1, got 0'),
        (dict(arch=dict(TINY, mlp_ratios=(4, 4, '4', 4))), "mlp_ratios must .* got '4'"),
        (dict(in_channels=1.5), 'in_channels must be a whole number >= 1, got 1.5'),
        (dict(attn_drop_rate='0'), r"attn_drop_rate must be a number in \[0, 1\), got '0'"),
        (
            dict(arch=TEACHER, num_clusters=(4,) * 4, share='block'),
            "share must be 'stage' with a teacher, got 'block'",
        ),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be a number in \[0, 1\), got 1.0'),
        (dict(drop_rate=-0.1), r'drop_rate must be a number in \[0, 1\), got -0.1'),
        (dict(out_indices=(0, 4)), r'out_indices .* got \(0, 4\)'),
        (dict(out_indices=None), 'out_indices must be ascending .* got None'),
        (dict(out_indices=(0, 'a')), "out_indices must be a whole number >= 0, got 'a'"),
        (dict(frozen_stages=1.5), 'frozen_stages must be a whole number >= -1, got 1.5'),
        (dict(with_cp=None), 'with_cp must be True or False, got None'),
        (dict(norm_eval='no'), "norm_eval must be True or False, got 'no'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_misspelt_argument():
    with pytest.raises(TypeError, match='num_cluster'):
        MODELS.build(dict(type='PaCaViT', num_cluster=(1, 1, 1, 0)))


@pytest.mark.parametrize('shape', [(1, 4, 32, 32), (3, 32, 32)])
def test_bad_input(shape):
    with pytest.raises(ValueError, match='the input must have'):
        build()(torch.randn(shape))


def test_compiles_without_graph_breaks():
    model, image = build().eval(), torch.randn(1, 3, 33, 47)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(image), model(image)):
            torch.testing.assert_close(a, b)


def test_checkpointing_counts_the_batch_of_a_teacher_once():
    states = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = PaCaViT(TEACHER, num_clusters=(4,) * 4, with_cp=with_cp)
        sum(m.square().mean() for m in model(torch.randn(2, 3, 40, 40))).backward()
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=lambda m, k=key: f'{k}: {m}')


def test_one_image_per_batch_of_a_teacher():
    image = torch.randn(1, 3, 32, 32)
    model = PaCaViT(TEACHER, num_clusters=(4,) * 4)
    with pytest.raises(ValueError, match=r'at least 2 values per channel.*use a batch of 2'):
        model(image)
    sum(m.square().mean() for m in model(torch.randn(1, 3, 33, 32))).backward()
    PaCaViT(TEACHER, num_clusters=(4,) * 4, norm_eval=True).train()(image)


KINDS = dict(
    conv=dict(),
    mlp=dict(clustering='mlp'),
    linear=dict(clustering='linear', share='block'),
    teacher=dict(arch=TEACHER, num_clusters=(4,) * 4),
)


@pytest.mark.parametrize('kind', KINDS)
def test_recomputing_changes_nothing(kind, randomize, monkeypatch):
    model = randomize(build(**KINDS[kind]).double())
    image, results = torch.randn(2, 3, 37, 52, dtype=torch.float64, requires_grad=True), []
    for large in (10**6, 0):
        monkeypatch.setattr('mmtoken.common.memory.LARGE', large)
        torch.manual_seed(0)
        results.append(torch.cat([x.flatten() for x in model(image)]))
    check_equal(*results, {'image': image, **dict(model.named_parameters())})


# tests/contracts/test_deployment.py has the other two
every_kind = pytest.mark.parametrize(
    'arguments', [KINDS['mlp'], KINDS['linear']], ids=['mlp', 'linear']
)


@every_kind
@torch.no_grad()
def test_int8(arguments, randomize):
    model, image = randomize(build(**arguments)).eval(), torch.randn(2, 3, 61, 45)
    int8 = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    for want, got in zip(model(image), int8(image)):
        assert not torch.equal(want, got)
        assert (want - got).norm() < 0.1 * want.norm()


@pytest.mark.slow
@torch.no_grad()
def test_exports_with_a_dynamic_batch(randomize):
    model = randomize(build(**KINDS['teacher'])).eval()
    batch = torch.export.Dim('batch', min=1, max=8)
    image = torch.randn(2, 3, 61, 45)
    exported = torch.export.export(model, (image,), dynamic_shapes=({0: batch},)).module()
    image = torch.randn(3, 3, 61, 45)
    for want, got in zip(model(image), exported(image)):
        torch.testing.assert_close(got, want)


@every_kind
@pytest.mark.parametrize(('device', 'batch'), [('cpu', 0), ('meta', 2)])
@torch.no_grad()
def test_no_image_and_no_memory(arguments, device, batch):
    maps = build(**arguments).to(device).eval()(torch.randn(batch, 3, 61, 45, device=device))
    sizes = [(batch, 8, 16, 12), (batch, 12, 8, 6), (batch, 16, 4, 3), (batch, 24, 2, 2)]
    assert [m.shape for m in maps] == sizes


@torch.no_grad()
def test_maps_are_views_of_tokens(monkeypatch):
    """With any other stride, convolutions lose their channels-last kernels, also for one image."""
    model, strides = build(**KINDS['teacher']).eval(), []

    def remember(_module, inputs):
        strides.append((inputs[0].stride(), inputs[0].shape[1:]))

    for module in (model.transition2.proj, model.paca_teacher.block1[0][0]):
        module.register_forward_pre_hook(remember)
    mix = PaCaMlp.mix
    monkeypatch.setattr(PaCaMlp, 'mix', lambda mlp, x: remember(mlp, [x]) or mix(mlp, x))
    model(torch.randn(1, 3, 61, 45))
    assert len(strides) == 2 + sum(isinstance(one, PaCaMlp) for one in model.modules())
    for stride, (channels, height, width) in strides:
        assert stride == (height * width * channels, 1, width * channels, channels)
