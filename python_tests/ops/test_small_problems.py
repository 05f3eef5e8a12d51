"""Batches of small problems: of more than 8 dimensions, which one thread takes through all steps, and of few particles,
as many at once as a vector has lanes."""

from __future__ import annotations

import pytest
import torch
from ops.cases import Variant, gradients, sample_inputs, to

PHI_TRACE, FIELD, STEP = Variant("svgd_phi_trace"), Variant("svgd_field"), Variant("svgd_step", ("hessian_trace",))
SQNORM, LOGDET = Variant("svgd_jacobian_sqnorm", ("probe", "hvp")), Variant("svgd_logdet", ("hessian",))
# Both sides of a vector's width in particles and dimensions, one particle, and the largest counts.
SHAPES = [(1, 9), (3, 12), (8, 16), (10, 17), (17, 31), (128, 20), (16, 1100)]


@pytest.mark.parametrize(("m", "d"), SHAPES, ids=str)
@pytest.mark.parametrize("variant", [PHI_TRACE, FIELD, STEP, Variant("ksd", fixed=(("statistic", "v"),))], ids=str)
def test_float32_agrees_with_the_reference_in_float64(variant: Variant, m: int, d: int) -> None:
    check_against_the_reference(variant, (5,), m, d)


# 19 problems fill no number of vectors of any width.
@pytest.mark.parametrize(("m", "d"), [(1, 3), (2, 16), (3, 2), (5, 7), (9, 11)], ids=str)
@pytest.mark.parametrize("variant", [SQNORM, LOGDET], ids=str)
def test_jacobians_of_few_particles(variant: Variant, m: int, d: int) -> None:
    check_against_the_reference(variant, (19,), m, d)


def check_against_the_reference(variant: Variant, lead: tuple[int, ...], m: int, d: int) -> None:
    inputs = sample_inputs(variant, lead, m, d, torch.float32)
    exact = to(inputs, torch.float64)
    results = [*variant(inputs), *gradients(variant, inputs).values()]
    expected = [*variant.reference(exact), *gradients(variant.reference, exact).values()]
    for result, value in zip(results, expected, strict=True):
        torch.testing.assert_close(result.double(), value, rtol=2e-4, atol=2e-5 * float(value.abs().max()) + 1e-6)


def test_a_problem_is_computed_the_same_alone_and_among_others() -> None:
    inputs = sample_inputs(PHI_TRACE, (7,), 10, 17, torch.float32)
    together = PHI_TRACE(inputs)
    for row in range(7):
        alone = PHI_TRACE({name: value[row] for name, value in inputs.items()})
        assert all(torch.equal(one, all_rows[row]) for one, all_rows in zip(alone, together, strict=True))


def test_particles_far_apart_do_not_cancel() -> None:
    """One problem of the batch is spread over 10^4 bandwidths: there the squared distances must not be expanded."""
    inputs = sample_inputs(PHI_TRACE, (6,), 12, 20, torch.float32)
    inputs["x"][2, :6] += 3e3
    inputs["bandwidth"].fill_(0.5)
    expected = PHI_TRACE.reference(to(inputs, torch.float64))
    for result, value in zip(PHI_TRACE(inputs), expected, strict=True):
        torch.testing.assert_close(result.double(), value, rtol=2e-4, atol=2e-5 * float(value.abs().max()) + 1e-6)
