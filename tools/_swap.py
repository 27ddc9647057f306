"""Which maps of its backbone a model reads, and what changes in its config with another backbone.

Strides stay the same: anchors, points and feature sizes of a config depend on them.
"""

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from _cli import type_name
from _errors import UsageError
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

FPN = dict(out_channels=256)  # assumed where a config has no FPN


class Maps(NamedTuple):
    """Channels and stride of each map, and the stages that they come from."""

    channels: list[int]
    strides: list[int]
    stages: list[int]

    def at(self, places: list[int]) -> 'Maps':
        """The maps at these places."""
        return Maps(*([values[i] for i in places] for values in self))


def find_class(config: dict) -> type:
    """Return the class of ``type``, which belongs to a scope."""
    with MODELS.switch_scope_and_registry(config.get('_scope_')) as registry:
        kind = registry.get(config['type'])
    if kind is None:
        raise UsageError(f'type must name a registered class, got {config["type"]!r}')
    return kind


def as_list(value: object) -> list:
    """Return a list, one entry as a list, or an empty list for nothing."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def with_defaults(config: dict, defaults: dict) -> dict:
    """Return a config with further keys at its end."""
    return config | {key: value for key, value in defaults.items() if key not in config}


def maps_of_host(backbone: dict) -> Maps:
    """Run a backbone of a host on zeros: few of them declare their channels."""
    built = MODELS.build(backbone)
    built.eval()
    side = as_list(backbone.get('img_size') or 256)
    with torch.no_grad():
        maps = as_list(built(torch.zeros(1, 3, side[0], side[-1])))
    if not all(isinstance(one, torch.Tensor) and one.ndim == 4 for one in maps):
        raise UsageError(f'the backbone must return maps (B, C, H, W), got {backbone["type"]!r}')
    strides = [round(side[-1] / one.shape[3]) for one in maps]
    if len(maps) > 1 and len({*strides}) == 1:
        rule = 'the backbone must have maps of several strides, or one map'
        raise UsageError(f'{rule}, got {len(maps)} maps of {backbone["type"]} with {strides[0]}')
    return Maps([one.shape[1] for one in maps], strides, list(range(len(maps))))


def maps_of_ours(backbone: dict) -> tuple[Maps, list[int]]:
    """Ask one of our backbones for its stages, one per stride, and for its default outputs."""
    with torch.device('meta'):
        default = MODELS.build(dict(backbone))
        stages = list(range(default.num_stages))
        built = MODELS.build(dict(backbone, out_indices=stages))
    last = {stride: i for i, stride in enumerate(built.out_strides)}
    maps = Maps(list(built.out_channels), list(built.out_strides), stages)
    return maps.at(sorted(last.values())), list(default.out_indices)


def readers_of(model: dict) -> list[dict]:
    """Return the neck, or the heads, that read the maps of the backbone."""
    necks = as_list(model.get('neck'))[:1]
    heads = [part for key in model if key.endswith('head') for part in as_list(model[key])]
    for parts in (necks, heads):
        if found := [part for part in parts if 'in_channels' in part]:
            return found
    raise UsageError('a neck or head must have in_channels, got a model without')


def places_read(part: dict, host: Maps) -> list[int]:
    """Return which maps a neck or head reads: it says so, or by mmseg's and mmpose's defaults."""
    total, channels = len(host.channels), part['in_channels']
    if 'in_index' in part:
        return [i % total for i in as_list(part['in_index'])]
    if not isinstance(channels, int):
        if list(channels) != host.channels:
            rule = f'in_channels of {part["type"]} must be those of the backbone, {host.channels}'
            raise UsageError(f'{rule}, got {list(channels)}')
        end = part.get('end_level', -1) % total
        return list(range(part.get('start_level', 0), end + 1))
    is_concatenated = channels == sum(host.channels)
    return list(range(total)) if is_concatenated else [total - 1]


def further_maps(part: dict, host: Maps) -> Iterator[tuple[str, int]]:
    """Yield further keys of a head with the channels of a map, such as ``c1_in_channels``."""
    for key, value in part.items():
        if key.endswith('_in_channels') and value in host.channels:
            yield key, host.channels.index(value)


def redirect(part: dict, host: Maps, channels: dict[int, int]) -> None:
    """Let a neck or head read other maps: ``channels`` by the places of those it reads now."""
    places, read = places_read(part, host), sorted(channels)
    is_list = not isinstance(part['in_channels'], int)
    part.update({key: channels[i] for key, i in further_maps(part, host)})
    found = [channels[i] for i in places]
    part['in_channels'] = found if is_list else sum(found)
    if 'in_index' in part:
        ranks = [read.index(i) for i in places]
        part['in_index'] = ranks[0] if isinstance(part['in_index'], int) else ranks
    part.update({key: v for key, v in dict(start_level=0, end_level=-1).items() if key in part})


def upsampling(head: dict) -> list[int] | None:
    """Return the channels of the deconvolutions of a heatmap head; None for any other head."""
    default = inspect.signature(find_class(head)).parameters.get('deconv_out_channels')
    if default is None or 'in_featuremap_size' in head:
        return None
    return as_list(head.get('deconv_out_channels', default.default))


def keep_resolution(head: dict, old: int, new: int) -> None:
    """Let a head of mmpose read a map of another stride, with heatmaps of the same size."""
    if 'in_featuremap_size' in head:
        head['in_featuremap_size'] = [side * old // new for side in head['in_featuremap_size']]
        return
    before = upsampling(head)
    number = len(before) + math.log2(new / old)
    if number < 0 or number % 1:
        raise UsageError(f'{head["type"]} can only double maps, got strides {old} and {new}')
    if number != len(before):
        head['deconv_out_channels'] = [*before, *[256] * 9][: int(number)] or None
        head['deconv_kernel_sizes'] = [4] * int(number) or None


def choose(
    model: dict, head: dict | None, wanted: list[int], stages: Maps, fits: Any
) -> tuple[Maps, dict | None]:
    """Choose stages with the strides that a model reads, and a neck if it needs another one.

    A head that can read any stride gets the last map, or the finest of the fitting neck.
    """
    neck, is_plain = model.get('neck'), len(stages.strides) == 1
    if head:
        before, finest = upsampling(head), stages.strides[:1]
        is_heatmap = before is not None and wanted[0] == finest[0] * 2 ** len(before)
        found = fits and is_heatmap and fits.in_place_of_fpn(*stages[:2], finest, FPN)
        if found and not is_plain:
            keep_resolution(head, wanted[0], finest[0])
            return stages, found
        keep_resolution(head, wanted[0], stages.strides[-1])
        return stages.at([-1]), None
    if is_plain and joins(neck):
        joined = fits and len(wanted) > 1 and fits.in_place_of_fpn(*stages[:2], wanted[:1], FPN)
        return stages, joined or None
    maps, found = stages, None
    if not is_plain and {*wanted} <= {*stages.strides}:
        maps = stages.at([stages.strides.index(stride) for stride in wanted])
    has_fpn = is_fpn(neck)
    if fits and (has_fpn or (is_plain and wanted != maps.strides)):
        fpn = neck if has_fpn else dict(FPN, num_outs=len(wanted))
        found = fits.in_place_of_fpn(*maps[:2], wanted, fpn)
    if found is None and wanted != maps.strides:
        raise UsageError(
            f'the backbone must have maps of the strides that the config reads, {wanted}, got '
            f'{stages.strides}'
        )
    return maps, found


def joins(neck: object) -> bool:
    """Return whether a neck has no channels: those of mmpose make one map or vector of all maps.

    mmpose ignores lists of necks, so that none can be put before it.
    """
    return isinstance(neck, dict) and 'in_channels' not in neck


def is_fpn(neck: object) -> bool:
    """Return whether a neck is an FPN, in whose place another one can be."""
    return isinstance(neck, dict) and type_name(neck) == 'FPN'


def swap(model: ConfigDict, backbone: dict, is_large: bool) -> tuple[ConfigDict, dict[str, str]]:
    """Return the config of a model with another backbone, and remarks on its parts.

    ``is_large``: whether images have the sizes of detection and segmentation.
    """
    model, kind = copy.deepcopy(model), find_class(backbone)
    if is_large:
        backbone = with_defaults(backbone, kind.large_image_arguments)
    for_maps = with_defaults(backbone, kind.map_arguments)
    host, readers = maps_of_host(model.backbone), readers_of(model)
    places = [i for part in readers for i in places_read(part, host)]
    read = sorted({*places, *(i for part in readers for _, i in further_maps(part, host))})
    wanted = [host.strides[i] for i in read]
    if len({*host.strides}) < len(host.strides):  # dilated: the i-th map is the i-th stage
        wanted = [4 * 2**i for i in read]
    stages, default = maps_of_ours(for_maps)
    head = readers[0] if len(readers) == len(read) == 1 else {}
    is_free = bool(head) and ('in_featuremap_size' in head or upsampling(head) is not None)
    fits = MODELS.get(kind.fitting_neck) if kind.fitting_neck else None
    maps, neck = choose(model, head if is_free else None, wanted, stages, fits)
    remarks = {}
    if neck and is_fpn(model.get('neck')):
        model.neck, remarks['neck'] = neck, 'in place of the FPN, with the same strides'
    elif neck and joins(model.get('neck')):
        model.neck, remarks['neck'] = (
            neck,
            f'one map of stride {wanted[0]}, as from all maps joined',
        )
        readers[0]['in_channels'] = neck['out_channels']
    else:
        seen = [neck['out_channels']] * len(read) if neck else maps.channels
        for part in readers:
            redirect(part, host, dict(zip(read, seen)))
        if neck:
            model.neck = [neck, model.neck] if model.get('neck') else neck
            remarks['neck'] = f'maps of strides {wanted} from those of the backbone'
    model.backbone = backbone if neck else for_maps
    if maps.stages != default:
        model.backbone.out_indices = maps.stages
        remarks['backbone'] = f'strides {maps.strides}; without stages that nothing reads'
    if 'pretrained' in model:
        model.pretrained = None
    return model, remarks
