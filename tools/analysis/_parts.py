"""Modules of a config that run one after the other. Imports no package of this suite."""

from collections import OrderedDict
from typing import Any

from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


def build_nodes(nodes: dict[str, dict[str, Any]], scope: str) -> nn.Module:
    """Build ``{'model': config}``, or backbone and neck by name; all take images ``(B, C, H, W)``.

    Backbones and necks that are in mmengine's root registry need no host to be installed.
    """
    in_root = all(
        isinstance(n, dict) and n.get('type') in MODELS.module_dict for n in nodes.values()
    )
    if 'model' in nodes or not in_root:
        init_default_scope(scope)
    built = OrderedDict((name, MODELS.build(node)) for name, node in nodes.items())
    return take_images(built['model']) if 'model' in built else nn.Sequential(built)


def take_images(model: nn.Module) -> nn.Module:
    """Let a host's model be called with images alone; it returns the raw outputs of its head."""
    forward = model.forward

    def forward_images(images: Tensor) -> Any:
        sides = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
        about = dict.fromkeys(sides, tuple(images.shape[2:]))
        about.update(scale_factor=(1.0, 1.0), flip=False)
        samples = [BaseDataElement(metainfo=about) for _ in range(len(images))]
        return forward(images, samples, mode='tensor')

    model.forward = forward_images
    return model
