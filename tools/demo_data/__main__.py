"""Command line: ``python tools/demo_data OUT_DIR [--num-train 300] [--num-val 60]``."""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a folder: Python put the folder itself on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo_data import write_demo_data

parser = argparse.ArgumentParser('python tools/demo_data', description='Draw demo data.')
parser.add_argument('out_dir', help='folder to make')
parser.add_argument('--num-train', type=int, default=300, help='training images (300)')
parser.add_argument('--num-val', type=int, default=60, help='validation images (60)')
args = parser.parse_args()
try:
    made = write_demo_data(args.out_dir, args.num_train, args.num_val)
except (ValueError, OSError) as error:
    sys.exit(f'error: {error}')
except KeyboardInterrupt:
    sys.exit('interrupted; nothing was written')
print(f'demo data {"written to" if made else "are already in"} {args.out_dir}')
