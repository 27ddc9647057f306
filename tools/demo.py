"""From nothing to a trained, evaluated and drawn model on generated pictures.

python tools/demo.py [--task pose|detection|segmentation] [--work-dir work_dirs/demo_TASK]

It prints the commands of this repository that it runs, so that each can be repeated and changed.
An interrupted demo resumes where it stopped; a finished one only evaluates and draws again.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import mmengine
import torch
from _cli import run
from demo_data import write_demo_data
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import find_latest_checkpoint
from mmtoken.analysis.drawing import contact_sheet
from mmtoken.compat import prepare_hosts
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
STEP = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\].*?eta: (\S+).*?loss: (\S+)')
# the config and minutes of training on two cores of each task, and its metrics as printed
CONFIGS = {'pose': ('td-hm_*', 7), 'detection': ('mask-rcnn_*', 7), 'segmentation': ('*head_*', 5)}
SCORES = {
    'pose': {'coco/AP': 'OKS-AP'},
    'detection': {'coco/segm_mAP': 'mask AP', 'coco/bbox_mAP': 'box AP'},
    'segmentation': {'mIoU': 'mIoU in percent'},
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train, evaluate and draw on generated pictures')
    add = parser.add_argument
    add('--task', choices=list(CONFIGS), default='pose', help='(%(default)s)')
    add('--data-dir', type=Path, default=ROOT / 'data' / 'demo', help='generated pictures')
    add('--work-dir', type=Path, help='(work_dirs/demo_TASK)')
    add('--num-train', type=int, default=400, help='training pictures (%(default)s)')
    add('--num-val', type=int, default=80, help='validation pictures (%(default)s)')
    add('--epochs', type=int, help='epochs (those of the config)')
    return parser.parse_args()


def run_tool(name: str, *arguments: str | Path, log: Path, epochs: int = 0) -> None:
    """Print and run a command of ``tools/``, log its output, show progress if it has epochs."""
    shown = [os.path.relpath(a) if isinstance(a, Path) else str(a) for a in arguments]
    print(f'\n$ python tools/{name} {" ".join(shown)}', flush=True)
    command = [sys.executable, str(ROOT / 'tools' / name), *map(str, arguments)]
    # waiting threads must not spin: the machine may be busy
    environment = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    interval = 0.5 if sys.stderr.isatty() else 20
    with (
        log.open('a') as kept,
        subprocess.Popen(command, env=environment, **pipes) as process,
        tqdm(unit='step', mininterval=interval, disable=not epochs) as bar,
    ):
        for line in process.stdout:
            kept.write(line)
            if epochs and (step := STEP.search(line)):
                show_step(bar, step, epochs)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-15:])
        sys.exit(f'error: tools/{name} failed; its output is in {log} and ends with:\n{tail}')


def show_step(bar: tqdm, step: re.Match, epochs: int) -> None:
    """Move a progress bar to a line of the log that STEP matches."""
    epoch, done, per_epoch = map(int, step.groups()[:3])
    bar.total = epochs * per_epoch
    bar.set_postfix_str(f'loss {step[5]}, {step[4]} left', refresh=False)
    bar.update((epoch - 1) * per_epoch + done - bar.n)


def evaluate(config: Path, weights: Path, args: argparse.Namespace, *options: Path | str) -> dict:
    """The metrics of ``tools/test.py``."""
    out = args.work_dir / f'{weights.stem}.json'
    run_tool(
        *('test.py', config, weights, '--data-root', args.data_dir),
        *('--work-dir', args.work_dir / 'test', '--out', out, *options),
        log=args.work_dir / f'test_{weights.stem}.log',
    )
    return mmengine.load(out)


def largest_person(data_dir: Path) -> tuple[Path, list[float]]:
    """The validation picture of the largest person, and the person's box."""
    content = mmengine.load(data_dir / 'annotations' / 'person_keypoints_val.json')
    person = max(content['annotations'], key=lambda one: one['area'])
    names = {image['id']: image['file_name'] for image in content['images']}
    return data_dir / 'img_dir' / 'val' / names[person['image_id']], person['bbox']


def main() -> None:
    """Data, untrained score, training, score, pictures."""
    args = parse_args()
    (pattern, minutes), start = CONFIGS[args.task], time.time()
    args.work_dir = args.work_dir or ROOT / 'work_dirs' / f'demo_{args.task}'
    args.work_dir.mkdir(parents=True, exist_ok=True)
    config = next((ROOT / 'configs' / 'demo').glob(f'{pattern}.py'))
    prepare_hosts()
    cfg = Config.fromfile(config)
    print(f'MMToken demo, task {args.task}: about {minutes} minutes of training on two cores')

    counts = f'--num-train {args.num_train} --num-val {args.num_val}'
    print(f'\n$ python tools/demo_data {os.path.relpath(args.data_dir)} {counts}', flush=True)
    written = write_demo_data(args.data_dir, args.num_train, args.num_val)
    print('pictures drawn' if written else 'pictures are there already')

    untrained = args.work_dir / 'untrained.pth'
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, untrained)
    before = evaluate(config, untrained, args)
    options = ['--cfg-options', f'train_cfg.max_epochs={args.epochs}'] if args.epochs else []
    run_tool(
        *('train.py', config, '--data-root', args.data_dir, '--work-dir', args.work_dir),
        *('--resume', *options),
        log=args.work_dir / 'train.log',
        epochs=args.epochs or cfg.train_cfg.max_epochs,
    )
    trained, pictures = Path(find_latest_checkpoint(str(args.work_dir))), args.work_dir / 'pictures'
    after = evaluate(config, trained, args, '--show-dir', pictures, '--interval', '1')
    drawn = sorted(pictures.rglob('*.png'))
    sheet = [cv2.imread(str(path)) for path in drawn[:: -(-len(drawn) // 6)]]  # up to 6 of them
    cv2.imwrite(str(args.work_dir / 'predictions.png'), contact_sheet(sheet))
    image, box = largest_person(args.data_dir)
    bbox = ['--bbox', *box] if args.task == 'pose' else []
    run_tool(
        *('analysis/draw_tokens.py', config, trained, image, '--overwrite'),
        *('--out-dir', args.work_dir / 'tokens', *bbox),
        log=args.work_dir / 'token_maps.log',
    )
    for metric, score in SCORES[args.task].items():
        # a detector that finds nothing has no metrics
        first, last = (scores.get(metric, 0.0) for scores in (before, after))
        print(f'\n{score} on {args.num_val} pictures that were not trained on:')
        print(f'  untrained {first:.3f}\n  trained   {last:.3f}')
    print(f'predictions:     {os.path.relpath(args.work_dir)}/predictions.png, pictures/')
    print(f'tokens by stage: {os.path.relpath(args.work_dir)}/tokens')
    print(f'{(time.time() - start) / 60:.1f} minutes in all')


if __name__ == '__main__':
    try:
        run(main)
    except KeyboardInterrupt:
        sys.exit('\ninterrupted; run the same command again to resume')
