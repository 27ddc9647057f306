"""What both pyramids share: which stages there are, and what belongs to them."""

import pytest
from mmtoken import STViTR, STViTSwin
from mmtoken.stvit.pyramid import stage_dims
from stvit import smallest

MODELS = [(STViTR, smallest.TINY), (STViTSwin, smallest.SWIN)]


def test_widths_double():
    assert stage_dims(96) == (96, 192, 384, 768)


@pytest.mark.parametrize(('model', 'arch'), MODELS)
@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 3)])
def test_every_parameter_belongs_to_one_stage_that_is_built(model, arch, out_indices):
    model = model(arch, out_indices=out_indices)
    last = out_indices[-1]
    assert len(model.layers) == len(model.depths) == last + 1
    assert model.layers[last].downsample is None
    assert len(model.stage_modules) == last + 2  # the stem, too
    for key, _ in model.named_parameters():
        owners = [
            stage
            for stage, names in enumerate(model.stage_modules)
            if any(f'{key}.'.startswith(f'{name}.') for name in names)
        ]
        assert len(owners) == 1, key


@pytest.mark.parametrize(('model', 'arch'), MODELS)
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(embed_dims=7), 'one even number.* got 7'),
        (dict(depths=(2, 2, 6)), 'depths.*4'),
        (dict(num_heads=(1, 2)), 'num_heads.*4'),
        (dict(num_heads=(3, 3, 3, 3)), 'num_heads.*3'),
    ],
)
def test_sizes_that_do_not_fit(model, arch, change, message):
    with pytest.raises(ValueError, match=message):
        model({**arch, **change})
