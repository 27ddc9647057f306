"""Evaluate any config of mmdet, mmseg, mmpose or mmpretrain: the union of the hosts' test.py.

python tools/test.py CONFIG CHECKPOINT [--data-root DIR] [--out FILE] [--show-dir DIR] [--tta] ...

The name given to ``--out`` selects the output: FILE.pkl for predictions, FILE.json for metrics, or,
in mmseg only, a folder for the predicted index masks.
"""

import argparse
import os.path as osp
from collections.abc import Sequence

import mmengine
from _checks import build_runner, check_device, check_parts, innermost, read_checkpoint
from _cli import check_output, find_host, load_config, make_runner_parser, run, type_name
from _errors import UsageError
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

PICKLES = ('.pkl', '.pickle')
MERGE_BOXES = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
TTA_MODELS = dict(
    mmdet=dict(type='mmdet.models.DetTTAModel', tta_cfg=MERGE_BOXES),
    mmseg=dict(type='mmseg.models.SegTTAModel'),
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = make_runner_parser(
        'Evaluate a detector, a segmentor, a pose estimator or a classifier'
    )
    add = parser.add_argument
    add('checkpoint', help='checkpoint file')
    add('--out', help='FILE.pkl: predictions; FILE.json: metrics; folder: masks (mmseg)')
    add('--dump', metavar='FILE.pkl', help='predictions, as in mmpose')
    add('--tta', action='store_true', help='test-time augmentation of the host')
    return parser.parse_args()


class OutputHook(Hook):
    """Write metrics (FILE.json) and predictions (FILE.pkl), whatever the kind of the evaluator."""

    priority = 'LOWEST'

    def __init__(self, paths: Sequence[str], host: str) -> None:
        kind = 'mmdet.evaluation.DumpDetResults' if host == 'mmdet' else 'DumpResults'
        pickles = [path for path in paths if path.endswith(PICKLES)]
        self.evaluator = Evaluator([dict(type=kind, out_file_path=path) for path in pickles])
        self.metrics = [path for path in paths if path.endswith('.json')]

    def after_test_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Collect the predictions of one batch."""
        self.evaluator.process(outputs, data_batch)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the files."""
        self.evaluator.evaluate(len(runner.test_dataloader.dataset))
        if is_main_process():
            for path in self.metrics:
                mmengine.dump(metrics, path)


def check_outputs(out: str | None, dump: str | None, host: str) -> None:
    """Raise unless --out and --dump name files that this host can write."""
    if dump and not dump.endswith(PICKLES):
        raise UsageError(f'--dump must name a FILE.pkl for the predictions, got {dump!r}')
    suffix = osp.splitext(out)[1] if out else '.json'
    if suffix not in (*PICKLES, '.json', *([''] if host == 'mmseg' else [])):
        allowed = 'FILE.pkl (predictions), FILE.json (metrics) or, for mmseg, a folder (masks)'
        raise UsageError(f'--out must be {allowed}, got {out!r} for {host}')
    check_output('--out', out, folder=not suffix)
    check_output('--dump', dump)


def save_masks(runner: Runner, folder: str) -> None:
    """Let the metrics of mmseg write the predicted masks into a folder."""
    metrics = [m for m in runner.test_evaluator.metrics if hasattr(m, 'output_dir')]
    if not metrics:
        remedy = 'use IoUMetric, or --out FILE.pkl'
        raise UsageError(f'--out FOLDER needs a metric with output_dir, got {folder!r}; {remedy}')
    mmengine.mkdir_or_exist(folder)
    for metric in metrics:
        metric.output_dir, metric.keep_results = folder, True


def use_tta(cfg: Config) -> None:
    """Turn on the test-time augmentation of the host."""
    host = find_host(cfg)
    missing = [field for field in ('tta_model', 'tta_pipeline') if not cfg.get(field)]
    reason = ''
    if host == 'mmpose':
        if 'flip_test' in (cfg.model.get('test_cfg') or {}):
            cfg.model.test_cfg.flip_test = True
            return
        reason = 'is the flip test of top-down heatmaps, got a model without test_cfg.flip_test'
    elif host == 'mmdet' and 'mask_head' in (cfg.model.get('roi_head') or cfg.model):
        reason = 'merges only boxes in mmdet, got a model with a mask_head'
    elif missing and host not in TTA_MODELS:
        reason = (
            f'needs tta fields, got a config of {host} without {" and ".join(missing)}; inherit '
        )
        reason += 'from one that has them'
    if reason:
        raise UsageError(f'--tta {reason}')
    for dataset in innermost(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.get('tta_pipeline') or default_tta(dataset.pipeline, host)
    cfg.model = ConfigDict(**(cfg.get('tta_model') or TTA_MODELS[host]), module=cfg.model)


def default_tta(pipeline: list[dict], host: str) -> list[dict]:
    """Return a test pipeline with the default views: mmdet flips, mmseg flips each of 6 scales."""
    # full names, which need neither a default scope nor an import before
    own = 'mmdet.datasets.transforms' if host == 'mmdet' else 'mmcv.transforms'
    flip = dict(type=f'{own}.RandomFlip', direction='horizontal')
    *before, pack = pipeline
    # by default, the last step keeps whether the view was flipped
    pack = {key: value for key, value in pack.items() if key != 'meta_keys'}
    views = [[dict(flip, prob=1.0), dict(flip, prob=0.0)], [pack]]
    if host == 'mmseg':
        resize = dict(type='mmcv.transforms.Resize', keep_ratio=True)
        scales = [dict(resize, scale_factor=factor) for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
        # the annotations keep their size and are loaded after both
        loading = [step for step in before if type_name(step) == 'LoadAnnotations']
        before = [step for step in before if step not in loading]
        views = [scales, views[0][::-1], *([step] for step in loading), [pack]]
    return [*before, dict(type='mmcv.transforms.TestTimeAug', transforms=views)]


def main() -> None:
    """Load the config, check it and its files, and evaluate."""
    args = parse_args()
    cfg = load_config(args)
    check_parts(cfg, 'test')
    check_device(cfg, 'test')
    host = find_host(cfg)
    check_outputs(args.out, args.dump, host)
    cfg.load_from, cfg.resume = args.checkpoint, False
    read_checkpoint(args.checkpoint)
    if args.tta:
        use_tta(cfg)

    runner = build_runner(cfg, args.may_differ, 'test')
    files = [path for path in (args.out, args.dump) if path and osp.splitext(path)[1]]
    if files:
        runner.register_hook(OutputHook(files, host))
    if args.out and args.out not in files:
        save_masks(runner, args.out)
    runner.test()


if __name__ == '__main__':
    run(main)
