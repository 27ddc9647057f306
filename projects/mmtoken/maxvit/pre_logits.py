"""The layers between MaxViT's last map and its classifier (timm's ``NormMlpClassifierHead``).

Letters: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..common.checks import check_int, check_shape
from ..common.layers import init_vit_weights
from ..common.strict_load import StrictInitModule
from ..common.tracing import as_one_call

NORM_EPS = 1e-5


@MODELS.register_module()
class MaxViTPreLogits(StrictInitModule):
    """Neck of a classifier: the mean over a map, then layer norm, a linear layer and tanh.

    A linear classifier after it completes the authors' models. timm's own (rw and rmlp) classify
    the mean itself.

    Args:
        embed_dims: C of the map.
        init_cfg: See :class:`~mmtoken.common.backbone.Backbone`.

    Shape:
        - inputs: maps of which the last, ``(B, C, H, W)``, is used.
        - returns: a tuple of one ``(B, C)``.

    Raises:
        ValueError: If an argument or the input is invalid.
    """

    def __init__(self, embed_dims: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        check_int('embed_dims', embed_dims)
        self.norm = nn.LayerNorm(embed_dims, eps=NORM_EPS)
        self.fc = nn.Linear(embed_dims, embed_dims)
        self.apply(init_vit_weights)

    @as_one_call
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Return the features of the images."""
        check_shape('the map', inputs[-1], 'B C H W')
        if inputs[-1].shape[1] != self.fc.in_features:
            raise ValueError(
                f'MaxViTPreLogits was built for a map with embed_dims={self.fc.in_features}, got '
                f"{inputs[-1].shape[1]} channels; set it to the backbone's out_channels[-1]"
            )
        return (self.fc(self.norm(inputs[-1].mean((2, 3)))).tanh(),)
