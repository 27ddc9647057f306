"""TimmFeatures: any timm model with ``forward_intermediates`` as a backbone of every host.

timm is needed to build one, not to import this file.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from .common.backbone import Backbone, init_cfg_of
from .common.checks import HW, check_bool, check_int, check_range
from .common.strict_load import State, load_state_dict_strict
from .common.weights import read_state_dict

__all__ = ['TimmFeatures']
PREFIX = 'timm_model.'
# for the models without a group_matcher of their own
STEM, STAGE = r'^stem|^patch_embed', r'^stages\.(\d+)'
COARSE = dict(stem=STEM, blocks=STAGE)
FINE = dict(stem=STEM, blocks=[(rf'{STAGE}\.blocks\.(\d+)', None), (STAGE, (0,))])


@MODELS.register_module()
class TimmFeatures(Backbone):
    """A timm model that returns maps of the wanted strides, for images of any size.

    Parameters have timm's names after ``timm_model.``. Images are padded with zeros, at the right
    and at the bottom, to the smallest multiple that the model takes, and the maps cropped.

    Args:
        model: Name of a timm model, e.g. ``'convnext_tiny'``; see ``timm.list_models()``.
        out_strides: Strides of the maps, ascending, e.g. ``(4, 8, 16, 32)``; by default all that
            the model has from 4. Of several maps with one stride (the blocks of a plain ViT), the
            last is returned.
        out_indices: Returns these entries of the model's ``feature_info`` instead, e.g. four
            blocks of a plain ViT; ``out_strides`` then follows.
        out_norm: Whether the model's final norm is applied to its maps.
        in_channels: Channels of the image.
        drop_path_rate: Stochastic depth of the last block; None leaves it to the model.
        frozen_stages: -1 freezes nothing; k >= 0 freezes the stem and the first k groups of
            ``group_matcher(coarse=True)``, stages or the blocks of a plain ViT, which stay in
            eval mode.
        norm_eval: Keep batch norms in eval mode while training.
        with_cp: Recompute activations in the backward pass (``set_grad_checkpointing``).
        model_args: Further arguments of ``timm.create_model``, e.g. ``dict(img_size=512)``.
        pretrained: True lets timm download its weights in ``init_weights``, that is before
            training. A path is the deprecated form of ``init_cfg``.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads a local file strictly, through
            the checkpoint filter that timm has for this model.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If an argument or the input is invalid.
    """

    fitting_neck = 'SimpleFPN'  # of a model whose maps have one stride

    def __init__(
        self,
        model: str,
        out_strides: Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        out_norm: bool = False,
        in_channels: int = 3,
        drop_path_rate: float | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        model_args: dict | None = None,
        pretrained: bool | str | None = False,
        init_cfg: dict | None = None,
    ) -> None:
        timm = import_timm()
        check_name(timm, model)
        check_bool('out_norm', out_norm)
        check_int('in_channels', in_channels)
        arguments = _check_arguments(model_args)
        arguments['in_chans'] = in_channels
        if drop_path_rate is not None:
            check_range('drop_path_rate', drop_path_rate, 0.0, 1.0)
            arguments['drop_path_rate'] = drop_path_rate
        timm_model, arguments = create(timm, model, arguments)
        strides, channels = features_of(timm_model, model)
        if out_indices is None:
            out_indices = last_of_strides(out_strides, strides, model)
        elif out_strides is not None:
            raise ValueError(
                f'a backbone takes out_strides or out_indices, not both, got {out_strides=} and '
                f'{out_indices=}'
            )
        if pretrained is True and init_cfg is not None:
            raise ValueError('a backbone takes init_cfg or pretrained=True, not both')
        if not isinstance(pretrained, bool):
            init_cfg = init_cfg_of(pretrained, init_cfg)
        super().__init__(len(strides), out_indices, -1, norm_eval, with_cp, init_cfg)
        self.model, self.arguments = model, arguments
        self.downloads = pretrained is True
        self.out_norm = out_norm
        self.in_channels = in_channels
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        # what a file may hold next to the parameters of the layers in use
        self.all_keys = frozenset(PREFIX + key for key in timm_model.state_dict())
        timm_model.prune_intermediate_layers(list(self.out_indices), prune_norm=not out_norm)
        if out_norm:
            self._check_norm(timm, timm_model)
        timm_model.is_init = True  # mmengine would initialise it again
        self.timm_model = timm_model
        self._set_checkpointing(with_cp)
        self.divisor, self.largest = self._find_divisor()
        self._set_stages()
        check_int('frozen_stages', frozen_stages, -1)
        if frozen_stages > len(self.depths):
            raise ValueError(
                f'frozen_stages must be in [-1, {len(self.depths)}] for {model}, got '
                f'{frozen_stages}; -1 freezes nothing, 0 the stem'
            )
        self.frozen_stages = frozen_stages
        self.finish()

    def _check_norm(self, timm: ModuleType, timm_model: nn.Module) -> None:
        with torch.device('meta'):
            other, _ = create(timm, self.model, self.arguments)
        other.prune_intermediate_layers(list(self.out_indices), prune_norm=True)
        if other.state_dict().keys() == timm_model.state_dict().keys():
            raise ValueError(f'out_norm must be False: {self.model} has no final norm')

    def _set_checkpointing(self, with_cp: bool) -> None:
        try:
            self.timm_model.set_grad_checkpointing(with_cp)
        except (AssertionError, AttributeError):
            if with_cp:
                raise ValueError(f'with_cp must be False: {self.model} cannot recompute') from None

    def _set_stages(self) -> None:
        """Number the parameters for layer decay and list the modules of each stage."""
        fine, coarse = (_groups(self.timm_model, coarse) for coarse in (False, True))
        stage_of = {}  # a group of a norm may extend over two stages
        for key, group in fine.items():
            stage_of[group] = min(stage_of.get(group, coarse[key]), coarse[key])
        order = sorted(group for group, stage in stage_of.items() if stage)
        depth = {group: order.index(group) + 1 if group in order else 0 for group in stage_of}
        self.layer_of = {PREFIX + key: depth[group] for key, group in fine.items()}
        stages = range(max(stage_of.values()) + 1)
        self.depths = tuple(list(stage_of.values()).count(stage) for stage in stages[1:])
        for stage in stages:
            keys = {PREFIX + key for key, group in fine.items() if stage_of[group] == stage}
            self.stage_modules.append(list(cover(self, keys)))

    def run_stages(self, image: Tensor) -> dict[int, Tensor]:
        """Return the maps at ``out_indices``, cropped."""
        height, width = hw = tuple(image.shape[2:])
        if self.largest and (height > self.largest[0] or width > self.largest[1]):
            raise ValueError(
                f'{self.model} takes images of at most {self.largest[0]}x{self.largest[1]} pixels, '
                f'got {height}x{width}; build it with model_args=dict(img_size=(H, W))'
            )
        rows, columns = (-side % step for side, step in zip(hw, self.divisor))
        maps = self._maps(F.pad(image, (0, columns, 0, rows)) if rows or columns else image)
        sizes = [self.out_size(i, hw) for i in range(len(maps))]
        return {i: x[:, :, :h, :w] for i, x, (h, w) in zip(self.out_indices, maps, sizes)}

    def _maps(self, image: Tensor) -> list[Tensor]:
        return self.timm_model.forward_intermediates(
            image,
            indices=list(self.out_indices),
            norm=self.out_norm,
            output_fmt='NCHW',
            intermediates_only=True,
        )

    @torch.no_grad()
    def _find_divisor(self) -> tuple[HW, HW | None]:
        """Sides that an image must be a multiple of, and for a fixed model the only size."""
        size = self.arguments.get('img_size') or self.timm_model.pretrained_cfg['input_size'][1:]
        height, width = size if isinstance(size, Sequence) else (size, size)
        strides = [1, *sorted(set(self.out_strides))]
        parts = [n for n in range(1, height + 1) if not (height % n or width % n)]
        natives = [(height // n, width // n) for n in reversed(parts)]
        natives = [hw for hw in natives if not (hw[0] % strides[-1] or hw[1] % strides[-1])]
        was_training = self.timm_model.training
        self.timm_model.eval()
        try:
            for rows, columns in [(stride, stride) for stride in strides] + natives:
                # odd multiples, so that what rounds down shows
                times = -(-33 // min(rows, columns)) | 1
                if self._fits((rows * times, columns * (times + 2))):
                    return (rows, columns), None
            if self._fits((height, width)):
                return (height, width), (height, width)
        finally:
            self.timm_model.train(was_training)
        raise ValueError(
            f'model must return maps of 1 / out_strides of the image, {self.model} does not, at '
            f'its size {height}x{width} or at multiples'
        )

    def _fits(self, hw: HW) -> bool:
        """Whether the model takes images of a size, and gives the right sizes."""
        first = next(self.timm_model.parameters())
        image = torch.zeros(1, self.in_channels, *hw, device=first.device, dtype=first.dtype)
        try:
            maps = self._maps(image)
        except Exception:  # models refuse a size with errors of any kind
            return False
        return [tuple(x.shape[2:]) for x in maps] == [
            self.out_size(i, hw) for i in range(len(maps))
        ]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter by ``group_matcher``; see :class:`Backbone`."""
        num_layers = sum(self.depths) + 2
        depth = self.layer_of.get(param_name.removeprefix(prefix), num_layers - 1)
        return depth, num_layers

    def prepare_state_dict(self, state: State) -> tuple[State, tuple[str, ...]]:
        """Drop the classifier and the layers that are not built."""
        unused = self.all_keys - self.state_dict().keys()
        return {key: value for key, value in state.items() if key not in unused}, ()

    def read_weights(self, path: str | Path, prefix: str | None) -> State:
        """Read a file of timm, or one that this class wrote."""
        state = read_state_dict(path, prefix)
        if any(key.startswith(PREFIX) for key in state):
            return state
        filtered = filter_by_timm(self.model, self.arguments, state)
        changed = [key for key, v in state.items() if key not in filtered]
        changed += [k for k, v in filtered.items() if k in state and v.shape != state[k].shape]
        if changed:
            print_log(f'timm drops, renames or resizes in {path}: {changed}', logger='current')
        return {PREFIX + key: value for key, value in filtered.items()}

    def init_weights(self) -> None:
        """Load the weights of ``init_cfg``, or timm's own with ``pretrained=True``."""
        if not self.downloads or self.is_init:
            super().init_weights()
            return
        timm = import_timm()
        try:
            donor = timm.create_model(self.model, pretrained=True, **self.arguments)
        except Exception as error:  # of the hub, the network, the file
            raise OSError(
                f'timm could not load its weights of {self.model} ({type(error).__name__}: '
                f'{str(error).splitlines()[0] if str(error) else ""}); download them where there '
                "is a network and set init_cfg=dict(type='Pretrained', checkpoint=FILE)"
            ) from error
        state = {PREFIX + key: value for key, value in donor.state_dict().items()}
        load_state_dict_strict(self, state, source=f'timm, {self.model}')
        self.is_init = True


def import_timm() -> ModuleType:
    """Import timm, or say how to install it."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError(
            'TimmFeatures needs timm, which is not installed; run "pip install timm"'
        ) from error
    return timm


def check_name(timm: ModuleType, name: object) -> None:
    """Raise unless timm has a model of that name, with or without the tag of its weights."""
    if isinstance(name, str) and timm.is_model(name):
        return
    near = difflib.get_close_matches(str(name), timm.list_models(), 5)
    hint = f'; the nearest are {near}' if near else ''
    raise ValueError(f'model must be one of timm.list_models(), got {name!r}{hint}')


def _check_arguments(model_args: dict | None) -> dict[str, Any]:
    own = {'pretrained', 'features_only', 'out_indices', 'in_chans', 'drop_path_rate'}
    if model_args is not None and (not isinstance(model_args, dict) or own & set(model_args)):
        raise ValueError(
            'model_args must be a dict of arguments of timm.create_model other than '
            f'{sorted(own)}, got {model_args!r}'
        )
    return dict(model_args or {})


def create(timm: ModuleType, name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict]:
    """Build a model without weights, for images of any size if it has an option for that.

    Args:
        timm: The module.
        name: Of the model.
        arguments: Of ``timm.create_model``.

    Returns:
        The model, and the arguments that it was built with.

    Raises:
        ValueError: If timm refuses the arguments.
    """
    attempts = [{'dynamic_img_size': True, **arguments}, arguments]
    for attempt in attempts:
        try:
            return timm.create_model(name, pretrained=False, **attempt), attempt
        except Exception as error:
            failure = error
    raise ValueError(
        f'timm cannot build {name} with in_channels or drop_path_rate or model_args {arguments}: '
        f'{type(failure).__name__}: {failure}'
    ) from failure


def features_of(model: nn.Module, name: str) -> tuple[list[int], list[int]]:
    """Strides and channels of the maps that a model can return."""
    info = getattr(model, 'feature_info', None)
    if not info or not hasattr(model, 'prune_intermediate_layers'):
        raise ValueError(
            f'model must have feature_info and forward_intermediates, which {name} has not; '
            'choose another, or a newer timm'
        )
    info = info if isinstance(info, list) else info.info
    return [one['reduction'] for one in info], [one['num_chs'] for one in info]


def last_of_strides(
    wanted: Sequence[int] | None, strides: Sequence[int], name: str
) -> tuple[int, ...]:
    """Index of the last map of each wanted stride; by default of every stride from 4."""
    there = sorted(set(strides))
    if wanted is None:
        wanted = [stride for stride in there if stride >= 4]
    if not isinstance(wanted, Sequence) or not wanted or any(s not in there for s in wanted):
        raise ValueError(
            f'out_strides must be strides of the maps of {name}, {tuple(there)}, got {wanted!r}'
        )
    if list(wanted) != sorted(set(wanted)):
        raise ValueError(f'out_strides must be ascending, got {wanted!r}')
    return tuple(len(strides) - 1 - list(reversed(strides)).index(s) for s in wanted)


def _groups(model: nn.Module, coarse: bool) -> dict[str, int]:
    """Number of the group of each parameter, by timm's matcher; the stem is 0."""
    from timm.models import group_parameters

    has_matcher = hasattr(model, 'group_matcher')
    matcher = model.group_matcher(coarse=coarse) if has_matcher else (COARSE if coarse else FINE)
    return group_parameters(model, matcher, reverse=True)


def cover(module: nn.Module, wanted: Collection[str], prefix: str = '') -> Iterator[str]:
    """Names of the largest modules, and of single parameters, that hold the wanted ones only."""
    for name, _ in module.named_parameters(prefix=prefix.rstrip('.'), recurse=False):
        if name in wanted:
            yield name
    for name, child in module.named_children():
        keys = [key for key, _ in child.named_parameters(prefix=prefix + name)]
        if keys and set(keys) <= set(wanted):
            yield prefix + name
        else:
            yield from cover(child, wanted, f'{prefix}{name}.')


def filter_by_timm(name: str, arguments: dict[str, Any], state: State) -> State:
    """Convert a state dict by the checkpoint filter that timm has for a model.

    A model does not know its filter, which timm hands from its constructor to its loader. So a
    model is built without memory, and the loader replaced meanwhile.
    """
    import timm
    from timm.models import _builder

    found, original = [], _builder.load_pretrained
    _builder.load_pretrained = lambda *_, filter_fn=None, **__: found.append(filter_fn)
    try:
        with torch.device('meta'):
            model = timm.create_model(name, pretrained=True, **arguments)
    finally:
        _builder.load_pretrained = original
    if found == [None]:
        return state
    (convert,) = found
    takes_model = len(inspect.signature(convert).parameters) > 1
    return convert(dict(state), model) if takes_model else convert(dict(state))
