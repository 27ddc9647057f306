"""The contract between every backbone of the suite and the hosts."""

from __future__ import annotations

import functools
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .checks import HW, check_bool, check_image, check_int
from .memory import recompute
from .recorder import start_forward
from .strict_load import State, StrictInitModule, check_init_cfg
from .tracing import as_one_call


def resolve_arch(arch: str | dict, archs: dict[str, dict], required: Sequence[str]) -> dict:
    """Look up a shipped variant by name, or check a dict of hyper-parameters.

    Args:
        arch: Name in ``archs``, or a dict with exactly the keys ``required``.
        archs: Shipped variants by name.
        required: Keys of a complete set of hyper-parameters.

    Returns:
        The hyper-parameters, a new dict.

    Raises:
        ValueError: If the name is unknown, or the dict has missing or unknown keys.
    """
    if isinstance(arch, str) and arch in archs:
        return dict(archs[arch])
    if not isinstance(arch, dict):
        raise ValueError(
            f'arch must be one of {sorted(archs)} or a dict with the keys {tuple(required)}, '
            f'got {arch!r}'
        )
    missing, unknown = set(required) - set(arch), set(arch) - set(required)
    if missing or unknown:
        raise ValueError(
            f'arch as a dict needs exactly the keys {tuple(required)}, got {sorted(arch)}: '
            f'missing {sorted(missing)}, unknown {sorted(unknown)}'
        )
    return dict(arch)


def as_maps(maps: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Make maps contiguous; mmcv's RoIAlign ignores strides and shuffles channels-last maps."""
    return tuple(feature_map.contiguous() for feature_map in maps)


def _belongs(key: str, name: str) -> bool:
    """Whether a parameter has this name or is inside the module with this name."""
    return key == name or key.startswith(name + '.')


def init_cfg_of(pretrained: str | None, init_cfg: dict | None) -> dict | None:
    """Turn ``pretrained``, the hosts' deprecated argument, into an ``init_cfg``."""
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, (str, os.PathLike)):
        raise ValueError(f'pretrained must be a path, got {pretrained!r}')
    if init_cfg is not None:
        raise ValueError(
            f'a backbone takes init_cfg or pretrained, not both, got {pretrained=} in '
            'addition to init_cfg; set pretrained=None in the model'
        )
    init_cfg = dict(type='Pretrained', checkpoint=pretrained)
    warnings.warn(
        f'{pretrained=} is deprecated: give the backbone {init_cfg=}, or set '
        'pretrained=None in the model to train from initial values',
        stacklevel=4,
    )
    return init_cfg


def _takes_pretrained(init: Callable) -> Callable:
    """Add the argument ``pretrained`` to a constructor, with the hosts' meaning."""

    @functools.wraps(init)
    def with_pretrained(
        self: Backbone, *args: Any, pretrained: str | None = None, **arguments: Any
    ) -> None:
        if pretrained is not None:
            arguments['init_cfg'] = init_cfg_of(pretrained, arguments.get('init_cfg'))
        init(self, *args, **arguments)

    return with_pretrained


class Backbone(StrictInitModule):
    """Base class of all backbones: forward, outputs, freezing, checkpointing, layer depth.

    A subclass builds its stages, sets the attributes below and ends its constructor with
    :meth:`finish`. Stages after the last of ``out_indices`` are not built, so that every
    parameter gets a gradient. It defines :meth:`run_stages`, and :meth:`stage_names` if
    checkpoints may have more stages than the model.

    Args:
        num_stages: Number of stages of the full architecture.
        out_indices: 0-based indices of the stages to return, in ascending order.
        frozen_stages: -1 freezes nothing; k >= 0 freezes the stem and the first k stages, which
            stay in eval mode.
        norm_eval: Keep batch norms in eval mode while training.
        with_cp: Recompute block activations in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)`` loads strictly. Every
            subclass also takes the deprecated ``pretrained=PATH``, as stock mmseg bases give it.

    Attributes:
        in_channels: Channels of the image.
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map; its size is ``ceil(side / stride)``, unless
            ``out_size`` says otherwise.
        min_side: Smallest side of an image in pixels.
        min_side_reason: Where ``min_side`` comes from, for the error message.
        pictures_need_attention: Whether pictures of its records need attention weights.
        fitting_neck: Registered neck made for its outputs; ``in_place_of_fpn`` gives its config.
        map_arguments: Arguments with which it returns maps, for any other neck or head.
        large_image_arguments: Arguments that suit the image sizes of detection and segmentation.
        paramwise: ``paramwise_cfg`` of its recipes; keys of ``custom_keys`` are its own parameters.
        classifier_keys: How keys of the classifier in a released file start, and how they start in
            mmpretrain's ``ImageClassifier``.
    """

    in_channels: int
    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    min_side: int = 1
    min_side_reason: str = 'one pixel'
    pictures_need_attention: bool = False
    fitting_neck: str | None = None
    map_arguments: Mapping[str, Any] = MappingProxyType({})
    large_image_arguments: Mapping[str, Any] = MappingProxyType({})
    paramwise: Mapping[str, Any] = MappingProxyType(dict(norm_decay_mult=0.0))
    classifier_keys: Mapping[str, str] = MappingProxyType({'head.': 'head.fc.'})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        init = vars(cls).get('__init__')
        if init and 'pretrained' not in inspect.signature(init).parameters:
            cls.__init__ = _takes_pretrained(init)

    def __init__(
        self,
        num_stages: int,
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        indices = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
        for index in indices:
            check_int('out_indices', index, 0)
        if not indices or max(indices) >= num_stages or list(indices) != sorted(set(indices)):
            raise ValueError(
                f'out_indices must be ascending stage indices in [0, {num_stages - 1}], got '
                f'{out_indices!r}'
            )
        check_int('frozen_stages', frozen_stages, -1)
        if frozen_stages > num_stages:
            raise ValueError(
                f'frozen_stages must be in [-1, {num_stages}], got {frozen_stages}; -1 freezes '
                'nothing, 0 the stem'
            )
        check_bool('norm_eval', norm_eval)
        check_bool('with_cp', with_cp)
        self.num_stages = num_stages
        self.out_indices = tuple(map(int, indices))
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # names of the modules and parameters of the stem (entry 0) and of each built stage
        self.stage_modules: list[list[str]] = []
        self.depths: tuple[int, ...] = ()

    @as_one_call
    def forward(self, image: Tensor) -> tuple[Any, ...]:
        """Return one output per entry of ``out_indices``, high to low resolution.

        Args:
            image: ``(B, in_channels, H, W)``.

        Returns:
            Contiguous maps ``(B, out_channels[i], H_i, W_i)``.
        """
        check_image(image, self.in_channels, self.min_side, self.min_side_reason)
        start_forward()
        stages = self.run_stages(image)
        return tuple(self.output(index, stages[index]) for index in self.out_indices)

    def run_stages(self, image: Tensor) -> Sequence[Any]:
        """Return what :meth:`output` needs, for each stage that is built."""
        raise NotImplementedError(f'{type(self).__name__} must define run_stages')

    def output(self, _stage: int, value: Any) -> Any:
        """The output of a stage, contiguous (see :func:`as_maps`)."""
        return value.contiguous()

    def stage_names(self, _stage: int) -> list[str]:
        """Names of the modules of a stage, counted from 1, whether it is built or not."""
        return []

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop the stages that are not built from a checkpoint."""
        absent = [
            name
            for stage in range(len(self.depths) + 1, self.num_stages + 1)
            for name in self.stage_names(stage)
            if not self._has(name)
        ]
        kept = {
            key: value
            for key, value in state.items()
            if not any(_belongs(key, name) for name in absent)
        }
        return kept, ()

    def _has(self, name: str) -> bool:
        return any(_belongs(key, name) for key, _ in self.named_parameters())

    def finish(self) -> None:
        """Freeze stages; a subclass calls it at the end of its constructor."""
        frozen = self._frozen_names()
        for key, parameter in self.named_parameters():
            if any(_belongs(key, name) for name in frozen):
                parameter.requires_grad_(False)

    def _frozen_names(self) -> list[str]:
        return [name for names in self.stage_modules[: self.frozen_stages + 1] for name in names]

    def _frozen_modules(self) -> Iterator[nn.Module]:
        modules = dict(self.named_modules())
        return (modules[name] for name in self._frozen_names() if name in modules)

    def train(self, mode: bool = True) -> Backbone:
        """Set the training mode; frozen stages (and norms with ``norm_eval``) stay in eval."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def run_block(self, block: nn.Module, *args: Any) -> Any:
        """Call a block, with activation checkpointing in training if ``with_cp`` is set."""
        if self.with_cp and self.training:
            return recompute(block, *args, is_random=True)
        return block(*args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay (mmpretrain's convention).

        The stem has depth 0. Block i, counted from 1 over all stages, has depth i, as has the
        transition before it and the norm after it. Everything else has the largest depth.

        Args:
            param_name: Qualified name of a parameter.
            prefix: Prefix of the backbone's parameters, e.g. ``'backbone.'``.

        Returns:
            The depth and the number of depths; the learning rate is multiplied by
            ``rate ** (number - depth - 1)``.
        """
        num_layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        name = param_name[len(prefix) :]
        for stage, names in enumerate(self.stage_modules):
            for module in names:
                if _belongs(name, module):
                    return self._depth_in_stage(stage, module, name), num_layers
        return num_layers - 1, num_layers

    def _depth_in_stage(self, stage: int, module: str, name: str) -> int:
        if stage == 0:
            return 0
        before = sum(self.depths[: stage - 1])
        block = re.match(rf'{re.escape(module)}\.(\d+)\.', name)
        if block:  # a teacher may have more blocks than its stage
            return before + min(int(block.group(1)) + 1, self.depths[stage - 1])
        is_transition = self.stage_modules[stage].index(module) == 0
        return before + (1 if is_transition else self.depths[stage - 1])

    def out_size(self, index: int, hw: HW) -> HW:
        """Size of output ``index`` for an image of size ``hw``."""
        stride = self.out_strides[index]
        return -(-hw[0] // stride), -(-hw[1] // stride)

    def select(self, stages: Sequence[Any]) -> tuple[Any, ...]:
        """The entries at ``out_indices``."""
        return tuple(stages[index] for index in self.out_indices)
