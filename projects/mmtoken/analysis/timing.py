"""Compare the speed and memory of models, side by side in one run.

Models take turns (A B A B ...), so that a change of the machine's speed affects all of them.
Medians and quartiles are robust to interruptions, which only add time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile


@dataclass(frozen=True)
class Summary:
    """Times of one call in milliseconds.

    Args:
        times: One per round.
    """

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median time."""
        return statistics.median(self.times)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile."""
        if len(self.times) == 1:
            return self.times[0], self.times[0]
        low, _, high = statistics.quantiles(self.times, n=4, method='inclusive')
        return low, high

    def ratio(self, reference: Summary) -> float:
        """Median over the rounds of this time divided by that of the reference."""
        return statistics.median(a / b for a, b in zip(self.times, reference.times))


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


@dataclass(frozen=True)
class Workload:
    """What every model is timed with.

    Args:
        images: ``(B, C, H, W)`` on the device of the models.
        dtype: ``torch.float32``, or a lower precision to run under autocast.
    """

    images: Tensor
    dtype: torch.dtype = torch.float32

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.images.device.type, dtype=self.dtype)

    @torch.no_grad()
    def forward(self, model: nn.Module) -> Any:
        """Inference, in eval mode."""
        model.eval()
        with self._autocast():
            return model(self.images)

    def train(self, model: nn.Module) -> None:
        """Forward and backward pass in train mode; no optimizer."""
        model.train()
        model.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = model(self.images)
        mean_square(outputs).backward()


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def time_interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int,
    device: torch.device,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, Summary]:
    """Time calls in turns.

    Args:
        calls: Name to call; its result is freed within the timed span.
        rounds: Timed calls of each.
        warmup: Untimed calls of each before that.
        device: Synchronized before and after every call.
        on_round: Called with the number of finished rounds, warm-up included.

    Returns:
        Name to times.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(warmup + rounds):
        for name, call in calls.items():
            _synchronize(device)
            start = time.perf_counter()
            call()
            _synchronize(device)
            if done >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
        on_round(done + 1)
    return {name: Summary(tuple(values)) for name, values in times.items()}


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
