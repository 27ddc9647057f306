"""Compare a fast function with its twin: outputs and gradients, in float64."""

import torch

CPU = (torch.device('cpu'), torch.float64)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check_equal(got, want, tensors):
    """Compare outputs, then gradients of a random projection to each named tensor."""
    torch.testing.assert_close(got, want, atol=1e-10, rtol=0)
    weight = torch.randn_like(want)
    grads = [
        torch.autograd.grad((out * weight).sum(), tensors.values(), allow_unused=True)
        for out in (got, want)
    ]
    for name, a, b in zip(tensors, *grads):
        zero = torch.zeros_like(tensors[name])
        torch.testing.assert_close(
            zero if a is None else a,
            zero if b is None else b,
            atol=1e-9,
            rtol=1e-7,
            msg=lambda m, n=name: f'gradient of {n}: {m}',
        )
