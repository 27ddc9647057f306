"""The details in which the releases of MaxViT differ from each other.

Activations, epsilons, padding and pooling have no weights, so an argument has to choose the form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    'gelu': nn.GELU,
    'gelu_tanh': partial(nn.GELU, approximate='tanh'),
    'silu': nn.SiLU,
}
BATCH_NORM_MOMENTUM = 0.01  # Keras: 0.99 of the old value is kept


@dataclass(frozen=True)
class Form:
    """How one release computes.

    Args:
        conv_act: Activation of the convolutions, a key of ``ACTIVATIONS``.
        mlp_act: Activation of the MLPs.
        conv_eps: Epsilon of the batch norms.
        norm_eps: Epsilon of the layer norms.
        same_padding: Strided convolutions pad as TensorFlow does, at even sides only at the
            bottom and on the right; otherwise by one pixel everywhere.
        wide_pool: The shortcut pools 3x3 instead of 2x2 pixels; both count zeros of the padding.
        widens_output: The hidden width of an MBConv is four times the output, not the input.
        always_projects: Every strided shortcut has a 1x1 convolution, not only between widths.
        conv_bias: Last convolution of an MBConv and shortcut have a bias.
        stem_bias: Whether each convolution of the stem has a bias.
        rel_pos: Relative positions: a ``'table'`` or an ``'mlp'`` of their logarithms.
        heads_first: Rows of ``qkv`` are heads x (q, k, v), not (q, k, v) x heads.
        scales_by_width: The released logits are scaled by ``C ** -0.5`` instead of the width of a
            head; loading folds the difference into the keys.
    """

    conv_act: str
    mlp_act: str
    conv_eps: float
    norm_eps: float
    same_padding: bool = False
    wide_pool: bool = False
    widens_output: bool = True
    always_projects: bool = False
    conv_bias: bool = True
    stem_bias: tuple[bool, bool] = (True, True)
    rel_pos: str = 'table'
    heads_first: bool = False
    scales_by_width: bool = False


_RW = Form(
    conv_act='silu',
    mlp_act='gelu',
    conv_eps=1e-5,
    norm_eps=1e-6,
    widens_output=False,
    conv_bias=False,
    stem_bias=(False, False),
    heads_first=True,
)
FORMS = {
    # the authors', in timm's conversion maxvit_*_tf_*
    'tf': Form('gelu_tanh', 'gelu_tanh', conv_eps=1e-3, norm_eps=1e-5, same_padding=True),
    # timm's own, maxvit_*_rw_* and maxvit_rmlp_*_rw_*
    'rw': _RW,
    'rmlp': replace(_RW, rel_pos='mlp'),
    # torchvision's maxvit_t
    'torchvision': Form(
        conv_act='gelu',
        mlp_act='gelu',
        conv_eps=1e-3,
        norm_eps=1e-5,
        wide_pool=True,
        always_projects=True,
        stem_bias=(False, True),
        scales_by_width=True,
    ),
}
