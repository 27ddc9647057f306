"""Evaluate any config of mmdet, mmseg or mmpose: the union of the three hosts' test.py.

python tools/test.py CONFIG CHECKPOINT [--data-root DIR] [--out FILE] [--show-dir DIR] [--tta] ...

``--out`` means something else in each host; here the name decides: FILE.pkl gets the predictions
(mmdet), FILE.json the metrics (mmpose), a folder the predicted index masks (mmseg only).
"""

import argparse
import os.path as osp
from collections.abc import Sequence

import mmengine
from _checks import (
    StrictLoadHook,
    build_loop,
    check_files,
    check_launcher,
    check_parts,
    innermost,
    read_checkpoint,
)
from _cli import UsageError, build_runner, find_host, load_config, make_parser, run, type_name
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

PICKLES = ('.pkl', '.pickle')
TTA_MODELS = dict(
    mmdet=dict(
        type='mmdet.models.DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
    mmseg=dict(type='mmseg.models.SegTTAModel'),
)


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


class PredictionsHook(Hook):
    """Hand all predictions of the test run to one more metric, which writes them to a file.

    Args:
        metric: Config of the metric.
    """

    def __init__(self, metric: dict) -> None:
        self.evaluator = Evaluator(metric)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object, outputs: Sequence
    ) -> None:
        """Collect the predictions of one batch."""
        self.evaluator.process(outputs, data_batch)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the file."""
        self.evaluator.evaluate(len(runner.test_dataloader.dataset))


def check_outputs(out: str | None, dump: str | None, host: str) -> None:
    """Raise unless --out and --dump name what this host can write."""
    if dump and not dump.endswith(PICKLES):
        raise UsageError(f'--dump must name a FILE.pkl for the predictions, got {dump!r}')
    suffix = osp.splitext(out)[1] if out else '.json'
    if suffix not in (*PICKLES, '.json', *([''] if host == 'mmseg' else [])):
        raise UsageError(
            f'--out must be FILE.pkl (predictions), FILE.json (metrics) or, for mmseg, a folder '
            f'(index masks), got {out!r} for {host}'
        )


def save_outputs(runner: Runner, out: str | None, dump: str | None, host: str) -> None:
    """Write what --out and --dump ask for, whatever the kind of the evaluator."""
    for path in (out, dump):
        if path and path.endswith(PICKLES):
            kind = 'mmdet.evaluation.DumpDetResults' if host == 'mmdet' else 'DumpResults'
            runner.register_hook(PredictionsHook(dict(type=kind, out_file_path=path)))
    if out and out.endswith('.json'):
        runner.register_hook(SaveMetricsHook(out), 'LOWEST')
    elif out and not out.endswith(PICKLES):
        metrics = [m for m in runner.test_evaluator.metrics if hasattr(m, 'output_dir')]
        if not metrics:
            raise UsageError(
                f'--out FOLDER needs a metric with output_dir, got {out!r} for a test_evaluator '
                'without one; use IoUMetric, or --out FILE.pkl'
            )
        mmengine.mkdir_or_exist(out)
        for metric in metrics:
            metric.output_dir, metric.keep_results = out, True


def use_tta(cfg: Config) -> None:
    """Turn on the test-time augmentation of the host."""
    host = find_host(cfg)
    if host == 'mmpose':
        if 'flip_test' not in (cfg.model.get('test_cfg') or {}):
            raise UsageError(
                '--tta is the flip test in mmpose, got a model without test_cfg.flip_test; '
                'it exists for top-down heatmap models'
            )
        cfg.model.test_cfg.flip_test = True
        return
    if host == 'mmdet' and 'mask_head' in (cfg.model.get('roi_head') or cfg.model):
        raise UsageError(
            '--tta merges boxes only in mmdet, got a model with a mask_head; leave it out'
        )
    missing = [field for field in ('tta_model', 'tta_pipeline') if not cfg.get(field)]
    if missing and host not in TTA_MODELS:
        raise UsageError(
            f'--tta needs the fields tta_model and tta_pipeline, got a config of {host} without '
            f'{" and ".join(missing)}; inherit from one that has them'
        )
    for dataset in innermost(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.get('tta_pipeline') or default_tta(dataset.pipeline, host)
    cfg.model = ConfigDict(**(cfg.get('tta_model') or TTA_MODELS[host]), module=cfg.model)


def default_tta(pipeline: list[dict], host: str) -> list[dict]:
    """Return a test pipeline with the default views of its host.

    mmdet flips, and mmseg resizes to 6 scales and flips each.

    Args:
        pipeline: Its last step packs the sample.
        host: 'mmdet' or 'mmseg'.

    Returns:
        The pipeline of all views.
    """
    # full names, which need neither a default scope nor an import before
    own, shared = f'{host}.datasets.transforms', 'mmcv.transforms'
    flip = dict(type=f'{own if host == "mmdet" else shared}.RandomFlip', direction='horizontal')
    flips = [dict(flip, prob=prob) for prob in (1.0, 0.0)]
    if host == 'mmdet':
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        pack = dict(type=f'{own}.PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
        return [*pipeline[:-1], dict(type=f'{shared}.TestTimeAug', transforms=[flips, [pack]])]
    scales = [
        dict(type=f'{shared}.Resize', scale_factor=factor, keep_ratio=True)
        for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    ]
    # the annotations keep their size and are loaded after both
    loading = [step for step in pipeline if type_name(step) == 'LoadAnnotations']
    before = [step for step in pipeline[:-1] if step not in loading]
    views = [
        scales,
        flips[::-1],
        *([step] for step in loading),
        [dict(type=f'{own}.PackSegInputs')],
    ]
    return [*before, dict(type=f'{shared}.TestTimeAug', transforms=views)]


def main() -> None:
    """Make the config that the command line asks for, check what it needs, and evaluate."""
    args = parse_args()
    cfg = load_config(args)
    check_parts(cfg, 'test')
    check_launcher(cfg)
    host = find_host(cfg)
    check_outputs(args.out, args.dump, host)
    cfg.load_from, cfg.resume = args.checkpoint, False
    read_checkpoint(args.checkpoint)
    check_files(cfg, 'test')
    if args.tta:
        use_tta(cfg)

    runner = build_runner(cfg)
    # sharded strategies hold no complete model to compare with
    if isinstance(runner, Runner):
        runner.register_hook(StrictLoadHook(args.may_differ), 'VERY_LOW')
    build_loop(runner, 'test')
    save_outputs(runner, args.out, args.dump, host)
    runner.test()


if __name__ == '__main__':
    run(main)
