"""Released classifiers in mmpretrain: golden cases in the configs that are shipped for them."""

import convert_weights
import pytest
import torch
from golden import cases as golden
from mmengine.registry import MODELS
from shipped import FOLDER, load

# what the rule of the golden weights leaves as constructed
KEPT = ('num_batches_tracked', 'relative_position_index', 'blur_filter')


def check(case_name: str, config: str, *dtypes_and_limits: tuple, **backbone: object) -> None:
    """Load the released weights, head included, and compare the logits of the host's classifier.

    Args:
        case_name: The golden case.
        config: Below ``configs/``, without the suffix.
        dtypes_and_limits: Pairs of a dtype and the largest difference.
        backbone: What the released model has and the backbone of the config has not.
    """
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    case = golden.CASES[case_name]
    cfg = load(FOLDER / f'{config}.py')
    cfg.model.backbone.update(backbone)
    with golden.without_initial_values():
        model = MODELS.build(cfg.model).double().eval()
    state = golden.state(case)
    own = convert_weights.as_classifier(model, state)
    assert own is not state  # it is a classifier
    constructed = {
        key: value
        for key, value in model.state_dict().items()
        if key not in own and key.endswith(KEPT)
    }
    convert_weights.load_whole(model, {**own, **constructed}, None, case_name)
    image = golden.image(case)
    for dtype, atol in dtypes_and_limits:
        with torch.no_grad():
            logits = model.to(dtype)(image.to(dtype))
        golden.check(case, dict(logits=logits), atol, partly=True)
