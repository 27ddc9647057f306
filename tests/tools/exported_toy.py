"""Tiny whole models for the tests of export.py and run_exported.py; a config imports this."""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmtoken.common.checks import check_image
from torch import nn
from torch.nn import functional as F


@MODELS.register_module()
class TinyBackbone(nn.Module):
    """One convolution.

    ``differs`` adds something in a trace only, ``fixes`` names what depends on the size of the
    trace, ``counts`` has an operator whose size depends on values.
    """

    def __init__(self, differs=0.0, fixes=None, counts=False, dim=4):
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 3, 4, 1)
        self.differs, self.fixes, self.counts = differs, fixes, counts

    def forward(self, image):
        check_image(image, 3, 16, 'toy')
        if self.fixes == 'size':
            image = image[:, :, : int(image.shape[2])]
        if self.fixes == 'padding' and image.shape[2] % 16:
            image = F.pad(image, (0, 0, 0, 16 - image.shape[2] % 16))
        x = self.conv(image)
        if self.counts:
            x = x + (image > 0).nonzero().sum().clamp(max=0)
        return (x + self.differs if torch.compiler.is_compiling() else x,)


@MODELS.register_module()
class TinyModel(BaseModel):
    """Backbone and a head, called like the models of the hosts."""

    def __init__(self, backbone, num_outs=1, reads_samples=False, data_preprocessor=None, **unused):
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.decode_head = nn.Conv2d(self.backbone.conv.out_channels, 3, 1)
        self.decode_head.align_corners = False
        self.num_outs, self.reads_samples = num_outs, reads_samples

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if self.reads_samples:
            inputs = inputs[..., : data_samples[0].width]
        maps = self.decode_head(self.backbone(inputs)[0])
        if self.num_outs == 2:
            pooled = F.adaptive_avg_pool2d(maps, 1).flatten(2)
            return maps.mean(2) * pooled, maps.mean(3)
        return maps if self.num_outs == 1 else ([maps, maps[..., ::2]], [maps * 2])


CONFIG = """
custom_imports = dict(imports=['tools.exported_toy'])
default_scope = 'mmengine'
model = dict(
    type='TinyModel',
    data_preprocessor=dict(mean=[120.0, 110, 100], std=[60.0, 55, 50], bgr_to_rgb=True),
    backbone=dict(type='TinyBackbone'))
"""
