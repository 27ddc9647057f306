"""Evaluate any config of mmdet, mmseg or mmpose: the union of the three hosts' test.py.

python tools/test.py CONFIG CHECKPOINT [--data-root DIR] [--out FILE] [--show-dir DIR] [--tta] ...

``--out`` means something else in each host; here the name decides: FILE.pkl gets the predictions
(mmdet), FILE.json the metrics (mmpose), a folder the predicted index masks (mmseg only).
"""

import argparse
import os.path as osp
from copy import deepcopy

import mmengine
from _checks import StrictLoadHook, build_loop, check_files, check_launcher, read_checkpoint
from _cli import UsageError, build_runner, load_config, make_parser, run
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser('Evaluate a detector, a segmentor or a pose estimator')
    add = parser.add_argument
    add('checkpoint', help='checkpoint file')
    add('--out', help='FILE.pkl: predictions; FILE.json: metrics; folder: masks (mmseg)')
    add('--dump', metavar='FILE.pkl', help='predictions as well (mmpose spells it so)')
    add('--tta', action='store_true', help='test-time augmentation, as the host has it')
    return parser.parse_args()


class SaveMetricsHook(Hook):
    """Write the metrics of the test run to a JSON file.

    Args:
        path: The file to write.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write them once all evaluators have spoken."""
        mmengine.dump(metrics, self.path)


def save_outputs(cfg: Config, out: str | None, dump: str | None) -> None:
    """Make the config write what --out and --dump ask for."""
    if dump and not dump.endswith(('.pkl', '.pickle')):
        raise UsageError(f'--dump must name a FILE.pkl for the predictions, got {dump!r}')
    host = cfg.get('default_scope')
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    suffix = osp.splitext(out)[1] if out else None
    if suffix == '' and host == 'mmseg':
        for evaluator in evaluators:
            evaluator.update(output_dir=out, keep_results=True)
    elif suffix not in (None, '.pkl', '.pickle', '.json'):
        raise UsageError(
            f'--out must be FILE.pkl (predictions), FILE.json (metrics) or, for mmseg, a folder '
            f'(index masks), got {out!r} for {host}'
        )
    kind = 'DumpDetResults' if host == 'mmdet' else 'DumpResults'
    for path in (out if suffix in ('.pkl', '.pickle') else None, dump):
        if path:
            evaluators.append(dict(type=kind, out_file_path=path))
    cfg.test_evaluator = evaluators


def use_tta(cfg: Config) -> None:
    """Turn on the test-time augmentation of the host."""
    host = cfg.get('default_scope')
    if host == 'mmpose':
        if 'flip_test' not in cfg.model.get('test_cfg', {}):
            raise UsageError(
                '--tta is the flip test in mmpose, got a model without test_cfg.flip_test; '
                'it exists for top-down heatmap models'
            )
        cfg.model.test_cfg.flip_test = True
        return
    if host == 'mmdet':
        default_mmdet_tta(cfg)
    missing = [field for field in ('tta_model', 'tta_pipeline') if field not in cfg]
    if missing:
        raise UsageError(
            f'--tta needs the fields tta_model and tta_pipeline, got a config of {host} without '
            f'{" and ".join(missing)}; inherit from one that has them'
        )
    _innermost(cfg.test_dataloader.dataset).pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def default_mmdet_tta(cfg: Config) -> None:
    """Fill in mmdet's own default for box detectors: the image and its mirror image."""
    if 'mask_head' in cfg.model.get('roi_head', {}) or 'mask_head' in cfg.model:
        raise UsageError(
            '--tta merges boxes only in mmdet, got a model with a mask_head; leave it out'
        )
    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    cfg.setdefault('tta_model', dict(type='DetTTAModel', tta_cfg=nms))
    if 'tta_pipeline' not in cfg:
        pipeline = deepcopy(_innermost(cfg.test_dataloader.dataset).pipeline)
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _innermost(dataset: dict) -> dict:
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset


def main() -> None:
    """Make the config that the command line asks for, check what it needs, and evaluate."""
    args = parse_args()
    cfg = load_config(args)
    check_launcher(cfg)
    cfg.load_from = args.checkpoint
    read_checkpoint(args.checkpoint)
    check_files(cfg, 'test')
    save_outputs(cfg, args.out, args.dump)
    if args.tta:
        use_tta(cfg)

    runner = build_runner(cfg)
    # sharded strategies hold no complete model to compare with
    if isinstance(runner, Runner):
        runner.register_hook(StrictLoadHook(args.may_differ), 'VERY_LOW')
    if args.out and args.out.endswith('.json'):
        runner.register_hook(SaveMetricsHook(args.out), 'LOWEST')
    build_loop(runner, 'test')
    runner.test()


if __name__ == '__main__':
    run(main)
