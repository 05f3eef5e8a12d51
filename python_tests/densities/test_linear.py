"""Matrix products: both routes agree with float64, and with themselves for any number of threads."""

from __future__ import annotations

import os
from pathlib import Path

import forkserver
import pytest
import torch

from svgdx import _library
from svgdx.densities.linear import Linear, linear, product

SHAPES = [(1, 1, 1), (7, 3, 5), (64, 256, 256), (100, 200, 300), (3, 400, 1000), (0, 4, 2), (4, 0, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_with_and_without_bias(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(rows + columns)
    a, weight, bias = (
        torch.randn(size, generator=generator, dtype=dtype) for size in ((rows, inner), (columns, inner), (columns,))
    )
    exact = a.double() @ weight.double().T
    bound = 1e-6 if dtype == torch.float32 else 1e-14
    scale = bound * (inner**0.5 + 1)
    for left, right in ((a, weight.T), (a, weight.T.contiguous()), (a.T.contiguous().T, weight.T)):
        assert (product(left, right) - exact).abs().le(4 * scale).all()
        memory = torch.empty(rows, columns, dtype=dtype)
        assert product(left, right, bias, memory) is memory
        assert (memory - (exact + bias)).abs().le(4 * scale).all()


def test_slope_and_bias_of_the_compiled_product() -> None:
    a, b, bias = torch.randn(5, 4), torch.randn(4, 70), torch.randn(70)
    out = torch.empty(5, 70)
    torch.ops.svgdx_inner.product(a, b, bias, 0.1, out)
    torch.testing.assert_close(out, torch.nn.functional.leaky_relu(a @ b + bias, 0.1))


def test_bad_input_is_refused() -> None:
    a, out = torch.ones(2, 3), torch.empty(2, 4)
    with pytest.raises(
        RuntimeError, match=r"product: a and b must have shapes \(R, K\) and \(K, C\), but have \(2, 3\)"
    ):
        product(a, torch.ones(4, 4), out=out)
    with pytest.raises(RuntimeError, match="product: b must be float32, but is float64"):
        product(a, torch.ones(3, 4, dtype=torch.float64), out=out)
    with pytest.raises(RuntimeError, match=r"product: bias must have shape \(C,\)"):
        product(a, torch.ones(3, 4), torch.ones(3))
    with pytest.raises(RuntimeError, match="product: out must be contiguous"):
        product(a, torch.ones(3, 4), out=torch.empty(4, 2).T)


def test_facts_are_measured() -> None:
    facts = _library.product_facts()
    assert facts.route in ("torch", "onednn")
    assert facts.torch > 0.1
    assert facts.exact == (facts.onednn > 0)  # oneDNN computes in float32 by default


def test_by_onednn() -> None:
    """In a process of its own, because the route is chosen once: products, gradients to second order, bits."""
    result = forkserver.run(
        ["-m", "densities.test_linear"], Path(__file__).parents[1], os.environ | {"SVGDX_PRODUCTS": "onednn"}
    )
    assert result.returncode == 0, result.stderr


def _by_onednn() -> None:
    assert _library.product_facts().route == "onednn"
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 100, 256), torch.randn(384, 256) / 16, torch.randn(384)
    for left, right in ((x[0], weight.T), (x[0].T.contiguous().T, weight.T), (x[0], weight.T.contiguous())):
        exact = left.double() @ right.double() + bias
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(product(left, right, bias))
        assert torch.equal(*results)
        assert (results[0] - exact).abs().max() < 2e-5
    inputs = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    narrow = [tensor.detach().float().requires_grad_() for tensor in inputs]
    for one, other in zip(_derivatives(linear, narrow), _derivatives(torch.nn.functional.linear, inputs), strict=True):
        assert (one - other).abs().max() < 2e-4 * other.abs().max()
    linear(*narrow).add_(1.0).sum().backward()
    layer = Linear(256, 384)
    graph = layer(x).grad_fn
    assert graph is not None
    assert type(graph).__name__ == "_LinearBackward"
    mapped = torch.vmap(lambda rows: linear(rows, weight, bias))(x)
    torch.testing.assert_close(mapped, linear(x, weight, bias))


def _derivatives(function: object, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    assert callable(function)
    first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in first]).sum(), inputs)
    return [*first, *second]


if __name__ == "__main__":
    _by_onednn()
