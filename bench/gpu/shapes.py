"""The ops and shapes whose times bench/gpu/model.py predicts."""

from __future__ import annotations

from collections.abc import Callable

from gpu import field, work

OPS: tuple[Callable[[work.Plan, int, int, int], list[work.Work]], ...] = (
    field.svgd_phi_trace,
    field.svgd_phi_trace_backward,
    field.svgd_step,
    work.svgd_jacobian_sqnorm,
    work.svgd_logdet,
    work.median_distance,
)
# batch, particles, dimensions: the shapes of bench_field.py, one chain, and both sides of the routes' limits.
SIZES = (
    (256, 10, 6),
    (256, 64, 6),
    (1, 1000, 2),
    (1, 64, 64),
    (4, 512, 64),
    (1, 4096, 16),
    (1, 16384, 16),
    (1, 2500, 50),
    (1, 2500, 100),
    (64, 64, 128),
    (1, 512, 128),
    (16, 256, 160),
    (1, 1024, 200),
    (1, 128, 3072),
    (1, 512, 3072),
)
# The field's ops in other forms, at some of these shapes.
FORMS = (field.BFLOAT16, field.TF32)
FORM_SIZES = ((1, 4096, 16), (16, 256, 160), (1, 128, 3072), (1, 512, 3072))


def representative(plan_of: work.Plan) -> list[tuple[str, tuple[int, int, int], list[work.Work]]]:
    """Op, size, and the work of its kernels in execution order."""
    calls = [(op.__name__, size, op(plan_of, *size)) for op in OPS for size in SIZES]
    for form in FORMS:
        for op in (field.svgd_phi_trace, field.svgd_phi_trace_backward):
            calls += [(f"{op.__name__}, {form.name}", size, op(plan_of, *size, form)) for size in FORM_SIZES]
    return [call for call in calls if call[2]]
