"""Compare the speed and memory of models, side by side in one run.

Models take turns (A B A B ...), so that a change of the machine's speed affects all of them.
Medians and quartiles are robust to interruptions, which only add time. This file imports PyTorch
alone: another checkout's models are timed by it as well.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

CPU = torch.device('cpu')
PRODUCT = 1024  # rows and columns of the matrices whose product is the yardstick


@dataclass(frozen=True)
class Summary:
    """Times of one call in milliseconds.

    Args:
        wall: Elapsed times, one per round.
        cpu: Times that all threads of the process were busy, one per round.
    """

    wall: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median elapsed time."""
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        """Median CPU time."""
        return statistics.median(self.cpu)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the elapsed times."""
        if len(self.wall) == 1:
            return self.wall[0], self.wall[0]
        low, _, high = statistics.quantiles(self.wall, n=4, method='inclusive')
        return low, high

    def ratio(self, reference: Summary, clock: str = 'wall') -> float:
        """Median over the rounds of this ``'wall'`` or ``'cpu'`` time over the reference's."""
        pairs = zip(getattr(self, clock), getattr(reference, clock))
        return statistics.median(a / b for a, b in pairs)


def growth(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Exponent p of ``time ~ size ** p``, by least squares of the logarithms."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, times))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def output_tensors(outputs: Any) -> list[Tensor]:
    """The floating-point tensors in nested outputs; of token sets their features ``x``."""
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(getattr(outputs, 'x', None), Tensor):
        return [outputs.x]
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif not isinstance(outputs, (list, tuple)):
        return []
    return [tensor for output in outputs for tensor in output_tensors(output)]


def mean_square(outputs: Any) -> Tensor:
    """A loss of all outputs, for a training step without labels."""
    tensors = output_tensors(outputs)
    if not tensors:
        raise ValueError(
            f'a training step needs floating-point outputs, got {type(outputs).__name__}; '
            "time the backbone alone (part='backbone')"
        )
    return sum(tensor.float().square().mean() for tensor in tensors)


def largest_difference(outputs: Any, reference: Any) -> float:
    """Largest absolute difference between two outputs; infinite if shapes differ."""
    ours, theirs = output_tensors(outputs), output_tensors(reference)
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float('inf')
    differences = [(a.float() - b.float()).abs().max().item() for a, b in zip(ours, theirs)]
    # max() ignores a nan that is not the first
    return float('nan') if any(d != d for d in differences) else max(differences, default=0.0)


class Timed(Protocol):
    """What takes part in a comparison, in this process or in another one."""

    def time(self, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Elapsed and CPU milliseconds of one call of a kind on images of a shape."""


class TimedModel:
    """A model with its calls: ``'forward'`` (inference) and ``'train'`` (a step, no optimizer).

    Args:
        model: Takes images ``(B, C, H, W)``.
        device: Where the model is.
        dtype: ``torch.float32``, or a lower precision to run under autocast.
        compiled: Compile the model, as one graph.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self.model, self.device, self.dtype = model.to(device), device, dtype
        self.compiled = compiled
        self.call = torch.compile(self.model, fullgraph=True) if compiled else self.model
        self._images: Tensor = torch.empty(0)

    def _run(self, kind: str, images: Tensor) -> Any:
        autocast = contextlib.nullcontext()
        if self.dtype != torch.float32:
            autocast = torch.autocast(self.device.type, dtype=self.dtype)
        self.model.train(kind == 'train')
        if kind == 'forward':
            with torch.no_grad(), autocast:
                return self.call(images)
        self.model.zero_grad(set_to_none=True)
        with autocast:
            outputs = self.call(images)
        mean_square(outputs).backward()
        return None

    def images(self, shape: tuple[int, ...]) -> Tensor:
        """Random images of a shape, the same in every process."""
        if self._images.shape != shape:
            generator = torch.Generator().manual_seed(0)
            self._images = torch.randn(shape, generator=generator).to(self.device)
        return self._images

    def outputs(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Return the tensors that a forward pass returns, on the CPU."""
        return [tensor.cpu() for tensor in output_tensors(self._run('forward', self.images(shape)))]

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights, on the CPU."""
        return {name: value.cpu().clone() for name, value in self.model.state_dict().items()}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take weights; RuntimeError if they do not fit."""
        self.model.load_state_dict(weights)

    def time(self, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Elapsed and CPU milliseconds of one call; its result is freed within the timed span."""
        images = self.images(shape)
        return measure_time(lambda: self._run(kind, images), self.device)

    def peak(self, kind: str, shape: tuple[int, ...]) -> int:
        """Peak memory of one call, see :func:`peak_memory`."""
        images = self.images(shape)
        self.model.zero_grad(set_to_none=True)
        return peak_memory(lambda: self._run(kind, images), self.device)


class MatrixProduct:
    """The yardstick: a bare product of two square matrices."""

    macs = PRODUCT**3

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.factor = torch.ones(PRODUCT, PRODUCT, dtype=dtype, device=device)

    def time(self, kind: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Elapsed and CPU milliseconds of one product."""
        return measure_time(lambda: self.factor @ self.factor, self.device)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def measure_time(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Elapsed and CPU milliseconds of a call; the device is synchronized before and after it."""
    _synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _synchronize(device)
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def take_turns(
    rows: Mapping[str, Timed],
    kind: str,
    shape: tuple[int, ...],
    rounds: int,
    warmup: int,
    on_round: Callable[[], Any] = lambda: None,
) -> dict[str, Summary]:
    """Time rows in turns.

    Args:
        rows: Name to what is timed.
        kind: ``'forward'`` or ``'train'``.
        shape: Of the images, ``(B, C, H, W)``.
        rounds: Timed calls of each.
        warmup: Untimed calls of each before that.
        on_round: Called after every round, warm-up included.

    Returns:
        Name to times.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for done in range(warmup + rounds):
        for name, row in rows.items():
            found = row.time(kind, shape)
            if done >= warmup:
                times[name].append(found)
        on_round()
    return {name: Summary(*zip(*values)) for name, values in times.items()}


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Peak memory of PyTorch's allocator during a call, in bytes beyond those held before it.

    Weights and inputs are therefore excluded, gradients of a training step are included. On a CPU
    the profiler watches the allocator, scratch memory of kernels included.
    """
    if device.type == 'cuda':
        _synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        _synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it writes about missing GPUs otherwise
    with profile(profile_memory=True) as profiler:
        call()
    return max(itertools.accumulate(_memory_events(profiler), initial=0))


def _memory_events(profiler: profile) -> list[int]:
    """Bytes allocated (positive) and freed (negative), in order."""
    events = profiler.kineto_results.events()
    memory = [event for event in events if event.name() == '[memory]']
    return [event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())]
