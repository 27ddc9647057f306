"""Command line: ``python tools/demo_data OUT_DIR [--num-train 300] [--num-val 60] ...``."""

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run as a folder: Python put the folder itself on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo_data import write_demo_data


class ProgressLine:
    """One line on stderr that counts images; on a terminal it is rewritten in place."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` images are drawn."""
        tty = sys.stderr.isatty()
        if not tty and done < total:
            return
        seconds = time.monotonic() - self.start
        bar = '#' * (30 * done // total)
        line = f'drawing [{bar:30}] {done}/{total} images, {seconds:.1f} s'
        print(f'\r{line}' if tty else line, end='\n' if done == total else '', file=sys.stderr)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='python tools/demo_data',
        description='Draw demo data for pose, detection, segmentation.',
    )
    parser.add_argument('out_dir', type=Path, help='folder to make')
    parser.add_argument('--num-train', type=int, default=300, help='training images (300)')
    parser.add_argument('--num-val', type=int, default=60, help='validation images (60)')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(256, 320), metavar=('H', 'W'), help='pixels (256 320)'
    )
    parser.add_argument('--seed', type=int, default=0, help='0 or more (0)')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a folder that this generator made'
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the data; return the exit status."""
    args = parse_args(argv)
    try:
        made = write_demo_data(
            args.out_dir,
            args.num_train,
            args.num_val,
            tuple(args.size),
            args.seed,
            args.overwrite,
            ProgressLine(),
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; nothing was written', file=sys.stderr)
        return 130
    print(f'demo data {"written to" if made else "are already in"} {args.out_dir}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
