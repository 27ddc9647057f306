"""Tables and plots of what compare_speed.py measured."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from mmtoken.analysis.timing import Summary, growth

KINDS = {'forward': 'forward, eval', 'train': 'training step: forward + backward'}
# of one size of images: kind of call to row to numbers
Found = dict[str, dict[str, dict[str, Any]]]


def summary(found: dict[str, Any]) -> Summary:
    """The times of a row."""
    return Summary(tuple(found['times_ms']), tuple(found['cpu_ms']))


def format_results(by_name: dict[str, dict[str, Any]]) -> str:
    """A table of one kind of call; ratios are to the first row."""
    width = max(map(len, by_name))
    lines = [
        f'{"":{width}}  median ms        quartiles ms   ratio    CPU ms   ratio  peak MiB   ratio'
        '       G  product'
    ]
    first, *_ = by_name.values()
    for name, found in by_name.items():
        times, peak, reference = summary(found), found['peak_bytes'], summary(first)
        quartiles = '{:.2f} - {:.2f}'.format(*times.quartiles)
        lines.append(
            f'{name:{width}}  {times.median:9.2f}  {quartiles:>18}  {times.ratio(reference):6.3f}  '
            f'{times.cpu_median:8.2f}  {times.ratio(reference, "cpu"):6.3f}  '
            f'{peak / 2**20:8.1f}  {peak / max(first["peak_bytes"], 1):6.3f}'
        )
        if 'macs' in found:
            lines[-1] += f'  {found["macs"] / 1e9:6.2f}  {100 * found["share_of_product"]:5.1f} %'
    return '\n'.join(lines)


def exponent(shapes: list[tuple[int, int]], results: list[Found], kind: str, name: str) -> float:
    """The power of the number of pixels with which the CPU time of a row grows."""
    times = [summary(found[kind][name]).cpu_median for found in results]
    return growth([height * width for height, width in shapes], times)


def format_growth(shapes: list[tuple[int, int]], results: list[Found]) -> str:
    """Exponents of the CPU time of each row over the number of pixels."""
    return '\n'.join(
        f'{KINDS[kind]}, {name}: CPU time ~ pixels^{exponent(shapes, results, kind, name):.2f}'
        for kind, rows in results[0].items()
        for name in rows
    )


def draw_times(path: Path, shapes: list[tuple[int, int]], results: list[Found]) -> None:
    """Draw CPU time against multiply-adds, or against pixels where there are several sizes."""
    figure = Figure(figsize=(5.5 * len(results[0]), 4.5), layout='constrained')
    pixels = [height * width for height, width in shapes]
    for axes, (kind, rows) in zip(
        figure.subplots(1, len(results[0]), squeeze=False)[0], results[0].items()
    ):
        for name, row in rows.items():
            times = [summary(found[kind][name]).cpu_median for found in results]
            if len(shapes) > 1:
                axes.loglog(
                    pixels, times, 'o-', label=f'{name}: pixels^{growth(pixels, times):.2f}'
                )
            elif 'macs' in row:
                axes.plot(row['macs'] / 1e9, times[0], 'o', label=name)
        axes.set(title=KINDS[kind], ylabel='CPU time (ms)')
        axes.set_xlabel('pixels' if len(shapes) > 1 else 'multiply-adds (G)')
        if len(shapes) == 1:
            axes.set(xlim=(0, None), ylim=(0, None))
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
