"""The approximation of tanh in GELU is no less exact than float32 is."""

import numpy as np
import pytest

from gemma_mlx.models.activation import gated_gelu
from gemma_mlx.system.backend import mx, nn

X = np.concatenate([np.linspace(-12, 12, 20_001), [-1e30, -60.0, 0.0, 1e-20, 60.0, 1e30]]).astype(
    np.float32
)


def exact(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    # Beyond 100 the cube only overflows.
    cut = np.clip(x, -100, 100)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (cut + 0.044715 * cut**3)))


def test_values() -> None:
    found = np.array(gated_gelu(mx.array(X), mx.full(X.shape, 2.0)))
    error = np.abs(found - 2 * exact(X)) / np.maximum(1, np.abs(X))
    assert error.max() < 4e-7
    theirs = np.array(nn.gelu_approx(mx.array(X)))[:-6]
    assert np.abs(found[:-6] / 2 - theirs).max() < 2e-6


def test_it_is_rounded_once() -> None:
    x = mx.array(X[:-6]).astype(mx.bfloat16)
    found = gated_gelu(x, mx.ones(x.shape, mx.bfloat16))
    assert found.dtype == mx.bfloat16
    expected = mx.array(exact(np.array(x.astype(mx.float32))).astype(np.float32))
    # Half a unit in the last place of eight bits, and what is lost to cancellation far left of 0.
    error = mx.abs(found.astype(mx.float32) - expected)
    assert mx.all(error <= mx.abs(expected) * 2**-8 + 2e-6).item()


@pytest.mark.parametrize("number", [0, 1], ids=["gate", "up"])
def test_gradients(number: int) -> None:
    gate, up = mx.array(X[:-6]), mx.array(np.cos(X[:-6]))

    def ours(*arrays: mx.array) -> mx.array:
        return gated_gelu(*arrays).sum()

    def plain(gate: mx.array, up: mx.array) -> mx.array:
        return (nn.gelu_approx(gate) * up).sum()

    found, expected = (mx.grad(f, argnums=number)(gate, up) for f in (ours, plain))
    assert mx.abs(found - expected).max().item() < 1e-4
