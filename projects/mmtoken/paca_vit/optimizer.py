"""Learning rates by the role of a layer instead of its name."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..common.checks import check_range


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RoleOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor with an additional ``paramwise_cfg['roles']``.

    The method ``parameter_roles()`` of a module maps each role to names of its submodules (``''``
    is the module itself). The factors of a role multiply those of the other rules
    (``norm_decay_mult``, ``custom_keys`` ...).

    Args:
        optim_wrapper_cfg: See mmengine.
        paramwise_cfg: See mmengine; ``roles`` maps a role to ``dict(lr_mult=..., decay_mult=...)``.

    Raises:
        ValueError: If no module of the model declares a role, or a factor is unknown.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='RoleOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
        ...     paramwise_cfg=dict(
        ...         norm_decay_mult=0.0,
        ...         roles=dict(head=dict(lr_mult=10.0), final_clustering=dict(lr_mult=10.0)),
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
        """Add the parameters of ``module``; the outermost call also applies the roles."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        found, roles = find_roles(module), self.paramwise_cfg.get('roles', {})
        if not isinstance(roles, dict) or not all(isinstance(one, dict) for one in roles.values()):
            raise ValueError(
                f'paramwise_cfg.roles must be dict(role=dict(lr_mult=..., decay_mult=...)), got '
                f'{roles!r}'
            )
        for role, factors in roles.items():
            if role not in found:
                raise ValueError(
                    f'paramwise_cfg.roles must name roles that the model has, got {role!r}; '
                    f'{type(module).__name__} has {sorted(found) or "none"}'
                )
            unknown = set(factors) - {'lr_mult', 'decay_mult'}
            if unknown:
                raise ValueError(
                    f'a role takes lr_mult and decay_mult, got {sorted(unknown)} for {role!r}'
                )
            for name, factor in factors.items():
                check_range(f'{name} of role {role!r}', factor, 0)
            self._multiply(params, found[role], **factors)

    def _multiply(
        self,
        params: list[dict],
        parameters: list[nn.Parameter],
        lr_mult: float = 1.0,
        decay_mult: float = 1.0,
    ) -> None:
        chosen = {id(parameter) for parameter in parameters}
        for group in params:
            if all(id(parameter) in chosen for parameter in group['params']):
                group['lr'] = group.get('lr', self.base_lr) * lr_mult
                if self.base_wd is not None:
                    group['weight_decay'] = group.get('weight_decay', self.base_wd) * decay_mult


def find_roles(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Map each role to its parameters in all modules of a model."""
    found: dict[str, list[nn.Parameter]] = {}
    for module in model.modules():
        if hasattr(module, 'parameter_roles'):
            for role, names in module.parameter_roles().items():
                for name in names:
                    found.setdefault(role, []).extend(module.get_submodule(name).parameters())
    return found
