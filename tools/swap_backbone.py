"""Put one of our backbones into any config of mmdet, mmseg or mmpose.

python tools/swap_backbone.py CONFIG --backbone TYPE [--arch ARCH] -o NEW.py

CONFIG is a file or ``host::path``. The new config inherits from it and says only what differs. It
is built, trained for one step and used for one prediction before it is written.
"""

import argparse
import os
import os.path as osp
import tempfile
from pathlib import Path

from _cli import Options, check_output, find_host, run
from _errors import UsageError, message_of
from _one_step import train_and_predict, without_gradient
from _swap import as_list, find_class, swap
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmtoken.common.backbone import Backbone
from mmtoken.compat import prepare_hosts

# the hosts' own optimizers for transformers, in place of SGD
ADAMW = dict(
    mmdet=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    mmseg=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    mmpose=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01),
)
# what released weights expect: mean and deviation of ImageNet, in RGB
PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
DECAY = 'LayerDepthOptimWrapperConstructor'
WIDTH = 80


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Put one of our backbones into a config')
    add = parser.add_argument
    add('config', help='file, or host::path of a config that the host ships')
    add('--backbone', required=True, metavar='TYPE', help='registered name')
    add('--arch', help='name of a shipped variant')
    text = 'further arguments of the backbone, e.g. drop_path_rate=0.2'
    add('--options', nargs='+', action=Options, default={}, metavar='KEY=VALUE', help=text)
    add('--weights', metavar='FILE', help='pre-trained weights, for init_cfg')
    add('--layer-decay', type=float, metavar='RATE', help='learning rate per layer, e.g. 0.75')
    add('-o', '--out', required=True, metavar='NEW.py', help='config to write')
    args = parser.parse_args()
    check_output('--out', args.out)
    if not args.out.endswith('.py'):
        raise UsageError(f'--out must name a .py file, got {args.out!r}')
    return args


def read(text: str, folder: Path) -> Config:
    """Read a config as if it were a file in a folder, where its bases are found."""
    handle, name = tempfile.mkstemp('.py', 'swap_', folder)
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as file:
            file.write(text)
        return Config.fromfile(name)
    finally:
        os.remove(name)


def base_of(config: str, folder: Path) -> str:
    """Return how a config in a folder names its base."""
    if '::' in config:
        return config
    if not osp.isfile(config):
        raise UsageError(f'config must be a file or host::path, got {config!r}')
    if Config._is_lazy_import(config):
        raise UsageError(f'only Python configs can inherit from one with read_base, got {config!r}')
    return osp.relpath(config, folder)


def adapt_optimizer(wrapper: dict, host: str, paramwise: dict, rate: float | None) -> None:
    """Put the settings of a backbone into an optim_wrapper; those of the config take precedence."""
    if wrapper['optimizer']['type'] == 'SGD':
        wrapper['optimizer'] = ADAMW[host]
    given, own = wrapper.pop('paramwise_cfg', None) or {}, dict(paramwise)
    if 'Decay' in wrapper.get('constructor', ''):  # those of the hosts know only their backbones
        rate = rate or given.get('decay_rate')
        given = {}
    keys = given.get('custom_keys', {})
    of_backbone = keys.get('backbone', {})
    default_rate, own_keys = own.pop('layer_decay_rate', None), own.pop('custom_keys', {})
    rate = rate or (None if of_backbone else default_rate)
    if not wrapper['optimizer'].get('weight_decay'):
        own, own_keys = {}, {}
    # only the longest key that matches a name applies
    keys = {key: {**of_backbone, **value} for key, value in own_keys.items()} | keys
    found = own | given | (dict(custom_keys=keys) if keys else {})
    if rate:
        wrapper['constructor'], found['layer_decay_rate'] = DECAY, rate
    if found:
        wrapper['paramwise_cfg'] = found


def changes(new: dict, old: dict) -> dict:
    """Return what a config says to turn ``old``, which it inherits, into ``new``."""
    if set(old) - set(new) or new.get('type') != old.get('type'):
        return dict(_delete_=True, **new)
    found = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if nested := changes(value, before):
                found[key] = nested
        elif key not in old or value != before:
            found[key] = value
    return found


def render(value: object, indent: int = 4, remarks: dict[str, str] | None = None) -> str:
    """Return Python source for a value, on one line where it fits."""
    if not isinstance(value, (dict, list)):
        return repr(value)
    is_dict = isinstance(value, dict)
    is_call = is_dict and all(map(str.isidentifier, value))
    start, end = ('dict(', ')') if is_call else '{}' if is_dict else '[]'
    lines = []
    for key in value if is_dict else range(len(value)):
        name = f'{key}=' if is_call else f'{key!r}: ' if is_dict else ''
        lines.append(name + render(value[key], indent + 4))
        if key in (remarks or {}):
            lines[-1] = f'# {remarks[key]}\n{" " * indent}{lines[-1]}'
    line = f'{start}{", ".join(lines)}{end}'
    if len(line) + indent < WIDTH and '\n' not in line:
        return line
    pad = '\n' + ' ' * indent
    return start + ''.join(f'{pad}{line},' for line in lines) + pad[:-4] + end


def make(
    config: str, backbone: dict, folder: Path, layer_decay: float | None = None
) -> tuple[str, Config]:
    """Return the new config, to be written into a folder, as text and as mmengine reads it."""
    head = f'_base_ = {base_of(config, folder)!r}\n'
    base = read(head, folder)
    host = find_host(base)
    if host not in ADAMW or 'backbone' not in (base.get('model') or {}):
        raise UsageError(f'config must have a model with a backbone, got {config!r} of {host}')
    init_default_scope(host)
    kind = find_class(backbone)
    if not issubclass(kind, Backbone):
        raise UsageError(f'--backbone must name a backbone of mmtoken, got {kind.__name__!r}')
    model, remarks = swap(base.model, backbone, host != 'mmpose')
    pixels = model.get('data_preprocessor') or {}
    if not (pixels.get('mean') and pixels.get('bgr_to_rgb')):
        pixels.update(PIXELS)
        remarks['data_preprocessor'] = 'RGB, as released weights expect'
    wrapper = base.optim_wrapper.to_dict()
    adapt_optimizer(wrapper, host, kind.paramwise, layer_decay)
    imports = as_list((base.get('custom_imports') or {}).get('imports'))
    imports = dict(imports=[*imports, *({'mmtoken'} - {*imports})])
    title = f'{Path(config).stem} with {kind.__name__}; written by tools/swap_backbone.py.'
    text = f'"""{title}"""\n\n{head}custom_imports = {render(imports)}\n\n'
    text += f'model = {render(changes(model.to_dict(), base.model.to_dict()), 4, remarks)}\n'
    if new := changes(wrapper, base.optim_wrapper.to_dict()):
        text += f'optim_wrapper = {render(new)}\n'
    return text, read(text, folder)


def check(config: str, cfg: Config) -> str:
    """Train the new config for a step and predict; return what was seen, or raise."""
    try:
        model, predictions = train_and_predict(cfg, find_host(cfg))
    except UsageError:
        raise
    except Exception as error:
        got = f'{type(error).__name__}: {message_of(error)}'
        raise UsageError(f'{config} must work with another backbone, got {got}') from error
    missing = without_gradient(model)
    if ours := [name for name in missing if name.startswith(('backbone.', 'neck.'))]:
        raise UsageError(f'each parameter of the backbone must get a gradient, got none: {ours}')
    note = f'; no gradient in the head: {", ".join(missing)}' if missing else ''
    return f'one training step and {len(predictions)} prediction{note}'


def main() -> None:
    """Read the command line and write the config."""
    prepare_hosts()
    MMLogger.get_current_instance().setLevel('WARNING')  # the hosts log each parameter
    args = parse_args()
    backbone = dict(type=args.backbone, **args.options)
    if args.arch:
        backbone['arch'] = args.arch
    if args.weights:
        backbone['init_cfg'] = dict(type='Pretrained', checkpoint=args.weights)
    out = Path(args.out).absolute()
    if out == Path(args.config).absolute():
        raise UsageError(f'--out must differ from the config, got {args.out!r} for both')
    out.parent.mkdir(parents=True, exist_ok=True)
    text, cfg = make(args.config, backbone, out.parent, args.layer_decay)
    seen = check(args.config, cfg)
    out.write_text(text, encoding='utf-8')
    print(f'{out}: {seen}')


if __name__ == '__main__':
    run(main)
