"""Dumbbell units against their twin, step by step: outputs and gradients in float64."""

import pytest
from mmtoken.stvit import reference
from mmtoken.stvit.stage import UNIT, SemanticStage
from parity import check_equal, rand
from stvit.smallest import SIZES

MASKS = ['released', 'exact', 'none']


# two units on a map with padding on both sides; the parts of a unit are tested at every size
QUICK = [(1, 3), (4, 9)]


@pytest.mark.parametrize(
    'hw', [pytest.param(hw, marks=() if hw in QUICK else pytest.mark.slow) for hw in SIZES]
)
@pytest.mark.parametrize('flavour', ['dense', 'classification'])
@pytest.mark.parametrize('mask', MASKS)
def test_units(randomize, flavour, mask, hw):
    units = 2 if hw == (4, 9) else 1
    model = SemanticStage(
        number=3,
        dim=8,
        num_heads=2,
        steps=UNIT * units,
        drop_paths=[0.0] * 6 * units,
        flavour=flavour,
        mask=mask,
        residual=flavour == 'dense',
        use_global_center=flavour == 'classification',
        merges=False,
    )
    model = randomize(model).double().eval()
    x = rand(2, hw[0] * hw[1], 8)
    want, center = x, model.semantic_token2
    for first in range(0, 6 * units, 6):
        blocks = model.blocks[first : first + 6]
        want, center = reference.semantic_unit(model, blocks, want, hw, center), None
    check_equal(model(x, hw)[0], want, dict(model.named_parameters(), x=x))
