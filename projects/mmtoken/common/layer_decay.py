"""Learning rates that fall from the head of a model to the stem of its backbone."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from .checks import check_range


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDepthOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with an additional ``paramwise_cfg['layer_decay_rate']``.

    The learning rate of a parameter is multiplied by ``rate ** (number - depth - 1)``, where the
    method ``get_layer_depth`` of its backbone gives the depth and the number of depths. The rest of
    the model keeps its rate. The factors of the other rules (``norm_decay_mult``, ``custom_keys``
    ...) apply as well.

    Args:
        optim_wrapper_cfg: See mmengine.
        paramwise_cfg: See mmengine; ``layer_decay_rate`` is in (0, 1].

    Raises:
        ValueError: If there is no rate, or no module of the model has ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDepthOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.1),
        ...     paramwise_cfg=dict(
        ...         layer_decay_rate=0.7,
        ...         norm_decay_mult=0.0,
        ...         custom_keys=dict(pos_embed=dict(decay_mult=0.0)),
        ...     ),
        ... )
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of ``module``; the outermost call also applies the decay."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        check_range(
            'paramwise_cfg.layer_decay_rate', self.paramwise_cfg.get('layer_decay_rate'), 0, 1, '(]'
        )
        factors = layer_factors(module, self.paramwise_cfg['layer_decay_rate'])
        for group in params:
            (parameter,) = group['params']
            group['lr'] = group.get('lr', self.base_lr) * factors.get(id(parameter), 1.0)


def layer_factors(model: nn.Module, rate: float) -> dict[int, float]:
    """Factor of the learning rate of each parameter of a backbone, by its ``id``."""
    factors: dict[int, float] = {}
    for _, module in model.named_modules():  # outer modules first: a stem belongs to its backbone
        if not hasattr(module, 'get_layer_depth'):
            continue
        for name, parameter in module.named_parameters():
            depth, number = module.get_layer_depth(name)
            factors.setdefault(id(parameter), rate ** (number - depth - 1))
    if not factors:
        raise ValueError(
            'layer_decay_rate needs a backbone with get_layer_depth, got none in '
            f'{type(model).__name__}'
        )
    return factors
