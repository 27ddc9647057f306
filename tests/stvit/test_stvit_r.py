"""STViT-R as a whole: twins, sizes, masks, recording, arguments."""

import pytest
import torch
from mmtoken import STViTR, record_tokens
from mmtoken.stvit import reference
from parity import check_equal, rand
from stvit import smallest

TINY = smallest.TINY


def build(randomize, *args, **kwargs):
    return randomize(STViTR(TINY, *args, **kwargs)).double().eval()


@pytest.mark.parametrize(('flavour', 'hw'), [('dense', (36, 116)), ('classification', (36, 60))])
def test_whole_backbone(randomize, flavour, hw):
    model = randomize(STViTR(smallest.TINY, flavour)).double().eval()
    image = rand(1, 3, *hw)  # shifted windows first, then 3x8 or 3x4 patches
    got, want = model(image), reference.stvit_r(model, image)
    check_equal(
        torch.cat([m.flatten() for m in got]),
        torch.cat([m.flatten() for m in want]),
        dict(model.named_parameters(), image=image),
    )


@pytest.mark.parametrize('flavour', ['dense', 'classification'])
@pytest.mark.parametrize('hw', [(32, 32), (33, 250), (96, 224), (256, 160)])
def test_any_size(flavour, hw):
    model = STViTR(TINY, flavour).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *hw))
    sizes = [tuple(-(-side // s) for side in hw) for s in (4, 8, 16, 32)]
    assert [tuple(m.shape[2:]) for m in maps] == sizes


def test_masks_differ_where_there_is_padding(randomize):
    image = torch.randn(1, 3, 128, 160).double()
    model = build(randomize)
    outputs = {}
    with torch.no_grad():
        for mask in ('exact', 'released', 'none'):
            model.layers[2].mask = mask
            outputs[mask] = model(image)
    for a, b in (('exact', 'released'), ('exact', 'none'), ('released', 'none')):
        assert torch.equal(outputs[a][1], outputs[b][1])
        assert (outputs[a][2] - outputs[b][2]).abs().max() > 1e-3


def test_an_exact_mask_hides_what_padding_is(randomize):
    """Whatever a padded patch looked like as a key, nothing but its own row could change."""
    model = build(randomize)
    image = torch.randn(1, 3, 128, 160).double()
    with torch.no_grad():
        want = model(image)
        for block in model.layers[2].blocks:  # a padded key is the projection of this bias
            if hasattr(block, 'layer_scale_1'):
                block.attn.kv.register_forward_hook(
                    lambda _module, args, out: out + 1e3 if args[0].ndim == 2 else out
                )
        for a, b in zip(want, model(image)):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize('flavour', ['dense', 'classification'])
def test_pooled_tokens_stay_as_released(flavour):
    assert STViTR(TINY, flavour).layers[2].blocks[1].residual == (flavour == 'dense')
    assert STViTR(TINY, flavour, stgm_residual=True).layers[2].blocks[1].residual


def test_a_global_center_moves_the_first_unit_alone(randomize):
    arch = dict(TINY, depths=(1, 1, 12, 1))
    model = randomize(STViTR(arch, 'classification', use_global_center=True)).eval()
    image = torch.randn(1, 3, 160, 128)
    with torch.no_grad(), record_tokens(model) as rec:
        model(image)
        model.layers[2].semantic_token2.zero_()
        model(image)
    before, after = (record.records for record in rec.forwards)
    assert torch.equal(before[0].generate, after[0].generate)
    assert not torch.allclose(before[0].refine, after[0].refine)
    assert model.layers[2].semantic_token2.shape == (1, 36, 32)


@pytest.mark.parametrize('flavour', ['dense', 'classification'])
def test_recorded_units(flavour, randomize):
    arch = dict(TINY, depths=(1, 1, 12, 1))
    model = randomize(STViTR(arch, flavour)).eval()
    image = torch.randn(2, 3, 130, 250)  # 9 x 16 patches, 2 x 3 windows
    with torch.no_grad():
        plain = model(image)
        with record_tokens(model) as rec:
            recorded = model(image)
    for a, b in zip(plain, recorded):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    units = rec.records
    assert len(units) == 2
    for unit in units:
        assert unit.hw == (9, 16) and unit.semantic_hw == (6, 9)
        assert unit.padded_hw == (14, 21)
        assert unit.semantic_tokens.shape == (2, 54, 32)
        assert unit.generate.shape == unit.refine.shape == (2, 54, 144)
        assert unit.recover.shape == (2, 144, 54)
        torch.testing.assert_close(unit.recover.sum(-1), torch.ones(2, 144))
        assert (unit.generate.sum(-1) <= 1 + 1e-5).all()
    near = units[0].generate[0].view(6, 9, 9, 16)
    # the first token sees its window and what is around it, nothing of the far side
    assert near[0, 0, :7, :7].gt(0).all() and near[0, 0, :, 11:].eq(0).all()
    assert near[0, 8, :, :6].eq(0).all()


def test_refining_tokens_look_at_patches_alone(randomize):
    """All that an exact mask leaves lies inside the map."""
    model = build(randomize)
    stage = model.layers[2]
    x = torch.randn(1, 9 * 16, 32).double()
    with torch.no_grad(), record_tokens(model) as rec:
        stage(x, (9, 16))
    weights = rec.records[0].refine[0]
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[:, 0]))


@torch.no_grad()
def test_compiles_in_one_graph():
    model = STViTR(dict(TINY, depths=(2, 1, 6, 1))).eval()
    image = torch.randn(1, 3, 70, 90)
    compiled = torch.compile(model, fullgraph=True, backend='eager')(image)
    for a, b in zip(compiled, model(image)):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_units_of_classification_compile_in_one_graph():
    stage = STViTR(TINY, 'classification').eval().layers[2]
    x, hw = torch.randn(1, 30, 32), (5, 6)
    compiled = torch.compile(stage, fullgraph=True, backend='eager')(x, hw)
    torch.testing.assert_close(compiled[0], stage(x, hw)[0])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='huge'), r"arch must be one of .*'small'.*'huge'"),
        (dict(arch=dict(embed_dims=8)), r"missing \['depths', 'num_heads'\]"),
        (dict(arch=dict(TINY, embed_dims=[8, 16])), r'one even number.* got \[8, 16\]'),
        (dict(arch=dict(TINY, embed_dims=9)), r'one even number.* got 9'),
        (dict(flavour='detection'), r"flavour must be one of .*'dense'.*'detection'"),
        (dict(mask='legacy'), r"mask must be one of .*'exact'.*'legacy'"),
        (dict(arch=dict(TINY, depths=(2, 2, 8, 2))), r'multiple of 6.* got 8 in \(2, 2, 8, 2\)'),
        (dict(arch=dict(TINY, depths=(2, 2, 0, 2))), r'multiple of 6.* got 0'),
        (dict(arch=dict(TINY, depths=(2, 2, 6))), 'depths needs 4 entries, one per stage, got 3'),
        (dict(arch=dict(TINY, num_heads=(1, 2, 3, 4))), r'num_heads must divide .*3 and .*32'),
        (dict(use_global_center=True), r"needs flavour='classification'.*flavour='dense'"),
        (dict(use_global_center=1), 'use_global_center must be True or False, got 1'),
        (dict(stgm_residual='no'), "stgm_residual must be True or False, got 'no'"),
        (dict(window_size=7.5), 'window_size must be a whole number >= 1, got 7.5'),
        (dict(key_windows=(14, 21, None)), 'key_windows must be a whole number >= 1, got None'),
        (dict(in_channels='3'), "in_channels must be a whole number >= 1, got '3'"),
        (dict(arch=dict(TINY, depths=None)), 'depths needs 4 entries, one per stage, got None'),
        (dict(semantic_window=8), r'in \[1, window_size\], got semantic_window=8 and .*=7'),
        (
            dict(key_windows=(14, 21)),
            r'needs 3 entries, one per step \(generate, refine, recover\)',
        ),
        (dict(key_windows=(14, 6, 27)), r'cover its own window, \(7, 7, 3\), got \(14, 6, 27\)'),
        (
            dict(mask='released', window_size=8, key_windows=(16, 24, 27)),
            r"mask='released' needs .*\(7, 3, \(14, 21, 27\)\), got \(8, 3, \(16, 24, 27\)\)",
        ),
        (dict(out_indices=(3, 1)), r'out_indices must be ascending .* got \(3, 1\)'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be .* in \[0, 1\), got 1.0'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        STViTR(**{'arch': TINY, **arguments})


def test_bad_images():
    model = STViTR(TINY)
    with pytest.raises(ValueError, match=r'at least 32 pixels .* got 31x64'):
        model(torch.randn(1, 3, 31, 64))
    with pytest.raises(ValueError, match=r'in_channels=3 channels, got 1'):
        model(torch.randn(1, 1, 64, 64))
    assert STViTR(TINY, out_indices=(0,)).eval()(torch.randn(1, 3, 4, 5))[0].shape[2:] == (1, 2)


def test_other_windows_work(randomize):
    model = (
        randomize(STViTR(TINY, window_size=4, semantic_window=2, key_windows=(6, 9, 10)))
        .double()
        .eval()
    )
    image = torch.randn(1, 3, 70, 90).double()
    with torch.no_grad():
        for a, b in zip(model(image), reference.stvit_r(model, image)):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
