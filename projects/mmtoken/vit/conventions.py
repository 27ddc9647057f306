"""Names that other releases give to the parameters of plain vision transformers and their neck."""

from __future__ import annotations

import re
from collections.abc import Collection


def mmdet_pyramid(keys: Collection[str]) -> dict[str, str]:
    """The neck of ViTDet in mmdet, which collects the convolutions of all levels in two lists."""
    names = {}
    for key in keys:
        match = re.fullmatch(r'(fpn1|fpn2|lateral_convs|fpn_convs)\.(\d)\.(.+)', key)
        if not match:
            continue
        module, index, rest = match[1], int(match[2]), match[3]
        if module.startswith('fpn') and module != 'fpn_convs':
            names[key] = f'simfp_{int(module[3:]) + 1}.{index}.{rest}'
        elif index < 4:  # levels 2 to 5 resize with 4, 1, 0 and 1 layers
            position = (4, 1, 0, 1)[index] + (module == 'fpn_convs')
            rest = rest.replace('norm_layer.', 'norm.').removeprefix('conv.')
            names[key] = f'simfp_{index + 2}.{position}.{rest}'
    return names
