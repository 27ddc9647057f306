"""From nothing to a trained, evaluated and drawn model on generated pictures.

python tools/demo.py [--task pose|detection|segmentation] [--work-dir work_dirs/demo_TASK]

The commands of this repository that it runs are printed first, so that each can be repeated and
changed by hand. An interrupted demo goes on where it stopped; a finished one only
evaluates and draws again.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import mmengine
import torch
from _demo_pictures import (
    draw_detections,
    draw_poses,
    draw_segmentations,
    first_person,
    first_scene,
)
from demo_data import write_demo_data
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import find_latest_checkpoint
from mmtoken.compat import prepare_hosts

ROOT = Path(__file__).resolve().parents[1]
STEP = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?eta: (\S+).*?loss: (\S+)')


@dataclass(frozen=True)
class Task:
    """What the demo of one task trains, measures and draws.

    Args:
        config: Config file, relative to the repository.
        scores: Metric of ``tools/test.py`` to what it is called in print; the first counts.
        draw: Draws predictions: (config, checkpoint, data folder, file to write).
        minutes: Roughly how long training takes on two cores.
        picture: Gives the picture whose tokens are drawn: arguments of
            ``tools/analysis/draw_tokens.py`` for a data folder.
    """

    config: str
    scores: dict[str, str]
    draw: Callable[[Config, str, Path, Path], None]
    minutes: int
    picture: Callable[[Path], list]


def person_in_a_box(data_dir: Path) -> list:
    """A picture, and the box of the person that a pose estimator looks at."""
    image, box = first_person(data_dir)
    return [image, '--bbox', *box]


TASKS = {
    'pose': Task(
        'configs/demo/td-hm_tcformer-demo_1xb8-20e_demo-128x96.py',
        {'coco/AP': 'OKS-AP'},
        draw_poses,
        7,
        person_in_a_box,
    ),
    'detection': Task(
        'configs/demo/mask-rcnn_paca-vit-demo_fpn_1xb8-10e_demo-160x128.py',
        {'coco/segm_mAP': 'mask AP', 'coco/bbox_mAP': 'box AP'},
        draw_detections,
        7,
        lambda data_dir: [first_scene(data_dir)],
    ),
    'segmentation': Task(
        'configs/demo/paca-vit-demo_pacahead_1xb8-20e_demo-160x128.py',
        {'mIoU': 'mIoU in percent'},
        draw_segmentations,
        5,
        lambda data_dir: [first_scene(data_dir)],
    ),
}


class DemoError(Exception):
    """A step failed; the message says which and where its output is."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train, evaluate and draw on generated pictures')
    add = parser.add_argument
    add('--task', choices=sorted(TASKS), default='pose', help='(%(default)s)')
    add('--data-dir', type=Path, default=ROOT / 'data' / 'demo', help='generated pictures')
    add('--work-dir', type=Path, help='(work_dirs/demo_TASK)')
    add('--num-train', type=int, default=400, help='training pictures (%(default)s)')
    add('--num-val', type=int, default=80, help='validation pictures (%(default)s)')
    add('--epochs', type=int, help='epochs (those of the config)')
    return parser.parse_args()


class ProgressBar:
    """One line that is redrawn in place, or a new line every so often where that cannot be done.

    Args:
        seconds: Time between lines where there is no terminal.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self.start = self.shown = time.time()

    def show(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` steps are done."""
        filled = 30 * done // total
        bar = f'[{"#" * filled}{"." * (30 - filled)}] {done}/{total} steps, {text}'
        if sys.stderr.isatty():
            end = '\n' if done == total else ''
            print(f'\r\033[K{bar}', end=end, file=sys.stderr, flush=True)
        elif done == total or time.time() - self.shown >= self.seconds:
            self.shown = time.time()
            print(f'{bar}, {self.shown - self.start:.0f} s', file=sys.stderr, flush=True)


def run_tool(name: str, *arguments: str | Path, log: Path, epochs: int = 0) -> None:
    """Print and run a command of ``tools/``; its output goes to ``log``.

    Args:
        name: Script in ``tools/``.
        *arguments: Its arguments.
        log: Where its output is kept.
        epochs: Show the progress of a training run of that many epochs.

    Raises:
        DemoError: The command failed.
    """
    shown = [os.path.relpath(a) if isinstance(a, Path) else str(a) for a in arguments]
    print(f'\n$ python tools/{name} {" ".join(shown)}', flush=True)
    command = [sys.executable, str(ROOT / 'tools' / name), *map(str, arguments)]
    # threads that wait for each other must not spin: the machine may be busy
    environment = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    bar, total = ProgressBar(), 0
    with (
        log.open('a') as kept,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process,
    ):
        for line in process.stdout:
            kept.write(line)
            step = STEP.search(line) if epochs else None
            if step:
                epoch, done, per_epoch = (int(step[i]) for i in (1, 2, 3))
                text = f'loss {step[5]}, {step[4]} left'
                total = epochs * per_epoch
                bar.show((epoch - 1) * per_epoch + done, total, text)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-15:])
        raise DemoError(f'tools/{name} failed; its output is in {log} and ends with:\n{tail}')
    if total:  # the log leaves out the last few steps
        bar.show(total, total, 'done')


def save_untrained(cfg: Config, path: Path) -> None:
    """Keep the initial weights, to show what training adds."""
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    mmengine.mkdir_or_exist(path.parent)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, path)


def evaluate(config: Path, weights: Path, args: argparse.Namespace) -> dict[str, float]:
    """The metrics of ``tools/test.py``."""
    out = args.work_dir / f'{weights.stem}.json'
    run_tool(
        *('test.py', config, weights, '--data-root', args.data_dir),
        *('--work-dir', args.work_dir / 'test', '--out', out),
        log=args.work_dir / f'test_{weights.stem}.log',
    )
    return mmengine.load(out)


def main() -> None:
    """Data, untrained score, training, score, pictures."""
    args = parse_args()
    task, start = TASKS[args.task], time.time()
    args.work_dir = args.work_dir or ROOT / 'work_dirs' / f'demo_{args.task}'
    mmengine.mkdir_or_exist(args.work_dir)
    config = ROOT / task.config
    prepare_hosts()
    cfg = Config.fromfile(config)
    epochs = args.epochs or cfg.train_cfg.max_epochs
    print(f'MMToken demo, task {args.task}: about {task.minutes} minutes of training on two cores')

    print(
        f'\n$ python tools/demo_data {os.path.relpath(args.data_dir)} --num-train '
        f'{args.num_train} --num-val {args.num_val}'
    )
    try:
        written = write_demo_data(args.data_dir, args.num_train, args.num_val)
    except (ValueError, OSError) as error:
        raise DemoError(f'{error} (here: another --data-dir, or delete that folder)') from error
    print('pictures drawn' if written else 'pictures are there already')

    untrained = args.work_dir / 'untrained.pth'
    save_untrained(cfg, untrained)
    before = evaluate(config, untrained, args)
    options = ['--cfg-options', f'train_cfg.max_epochs={args.epochs}'] if args.epochs else []
    run_tool(
        *('train.py', config, '--data-root', args.data_dir, '--work-dir', args.work_dir),
        *('--resume', *options),
        log=args.work_dir / 'train.log',
        epochs=epochs,
    )
    trained = Path(find_latest_checkpoint(str(args.work_dir)))
    after = evaluate(config, trained, args)

    predictions, tokens = args.work_dir / 'predictions.png', args.work_dir / 'tokens'
    with (args.work_dir / 'draw.log').open('a') as log, redirect_stdout(log), redirect_stderr(log):
        task.draw(cfg, str(trained), args.data_dir, predictions)
    image, *where = task.picture(args.data_dir)
    run_tool(
        *('analysis/draw_tokens.py', config, trained, image, '--out-dir', tokens, '--overwrite'),
        *where,
        log=args.work_dir / 'token_maps.log',
    )
    for metric, score in task.scores.items():
        # a detector that finds nothing has no metrics
        first, last = (scores.get(metric, 0.0) for scores in (before, after))
        print(f'\n{score} on {args.num_val} pictures that were not trained on:')
        print(f'  untrained {first:.3f}\n  trained   {last:.3f}')
    print(f'predictions:     {os.path.relpath(predictions)}')
    print(f'tokens by stage: {os.path.relpath(tokens)}')
    print(f'{(time.time() - start) / 60:.1f} minutes in all')


if __name__ == '__main__':
    try:
        main()
    except (DemoError, ValueError, OSError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('\ninterrupted; run the same command again to go on', file=sys.stderr)
        sys.exit(130)
