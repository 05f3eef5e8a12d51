"""The CPU library on its own, loaded with torch.ops.load_library in a program that does not import svgdx."""

from __future__ import annotations

from pathlib import Path

import forkserver
import pytest
import torch

from svgdx import _library, reference

CODE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 3, 2)
sigma = torch.tensor(0.7, dtype=torch.float64)
phi, trace = torch.ops.svgdx.svgd_phi_trace(x, -x, sigma)
phi_number, trace_number = torch.ops.svgdx.svgd_phi_trace(x, -x, 0.7)
assert torch.equal(phi, phi_number) and torch.equal(trace, trace_number)
assert torch.equal(torch.ops.svgdx.svgd_phi(x, -x, 0.7), phi)
x_next, log_q = torch.ops.svgdx.svgd_step(x, -x, 0.7, 0.1, x[..., 0])
field, divergence = torch.ops.svgdx.svgd_field(x, x, -x, 0.7)
sqnorm = torch.ops.svgdx.svgd_jacobian_sqnorm(x, -x, 0.7)
logdet = torch.ops.svgdx.svgd_logdet(x, -x, 0.7, 0.1)
ksd = torch.ops.svgdx.ksd(x, -x, 0.7)
median = torch.ops.svgdx.median_distance(x)
for number in (0.0, -1.0, float("nan"), float("inf")):
    try:
        torch.ops.svgdx.svgd_phi(x, -x, number)
    except RuntimeError as error:
        assert "bandwidth" in str(error), error
    else:
        raise AssertionError(number)
logits = torch.linspace(-3, 3, 54, dtype=torch.float64).view(2, 3, 9).sin()
actions = torch.tensor([[0, 3], [5, 0]])
trajectory = torch.ops.svgdx.gfn_trajectory_log_prob(logits, actions)
weight = logits.flatten()[:45].view(9, 5)
linear = torch.ops.svgdx.linear_trajectory_log_prob(logits[..., :5].contiguous(), weight, None, actions)
offsets = torch.tensor([0, 2, 4])
rows, mask = logits[:, :2].flatten(0, 1), torch.ones(4, 9, dtype=torch.bool)
masked = torch.ops.svgdx.masked_trajectory_log_prob(rows, mask, actions.flatten(), offsets)
state = torch.tensor([[-1, 0, 1], [1, -1, -1]], dtype=torch.int8)
draws = [
    *torch.ops.svgdx.gfn_sample_forward(logits[:, 0], state, 1, 2),
    *torch.ops.svgdx.gfn_sample_backward(logits[:, 0], state, 1, 2, 2.0, 0.5),
]
assert "svgdx" not in sys.modules
svgd = [phi, trace, x_next, log_q, field, divergence, sqnorm, logdet, ksd, median]
torch.save([*svgd, *trajectory, *linear, masked, *draws], sys.argv[2])
"""


def test_library_without_the_package(tmp_path: Path) -> None:
    library = _library.libraries["cpu"]
    if not library.path.exists():
        pytest.fail(f"{library.path} is not built")
    result = forkserver.run(["-c", CODE, str(library.path), "out.pt"], tmp_path)
    assert result.returncode == 0, result.stderr
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 3, 2)
    expected = [
        *reference.svgd_phi_trace(x, -x, 0.7),
        *reference.svgd_step(x, -x, 0.7, 0.1, x[..., 0]),
        *reference.svgd_field(x, x, -x, 0.7),
        reference.svgd_jacobian_sqnorm(x, -x, 0.7),
        reference.svgd_logdet(x, -x, 0.7, 0.1),
        reference.ksd(x, -x, 0.7),
        reference.median_distance(x),
        *gfn_values(),
    ]
    for out, value in zip(torch.load(f"{tmp_path}/out.pt"), expected, strict=True):
        torch.testing.assert_close(out, value, rtol=1e-10, atol=1e-12)


def gfn_values() -> list[torch.Tensor]:
    logits = torch.linspace(-3, 3, 54, dtype=torch.float64).view(2, 3, 9).sin()
    actions = torch.tensor([[0, 3], [5, 0]])
    weight = logits.flatten()[:45].view(9, 5)
    rows, mask = logits[:, :2].flatten(0, 1), torch.ones(4, 9, dtype=torch.bool)
    state = torch.tensor([[-1, 0, 1], [1, -1, -1]], dtype=torch.int8)
    return [
        *reference.gfn_trajectory_log_prob(logits, actions),
        *reference.linear_trajectory_log_prob(logits[..., :5], weight, None, actions),
        reference.masked_trajectory_log_prob(rows, mask, actions.flatten(), torch.tensor([0, 2, 4])),
        *reference.gfn_sample_forward(logits[:, 0], state, 1, 2),
        *reference.gfn_sample_backward(logits[:, 0], state, 1, 2, 2.0, 0.5),
    ]
