"""Values and gradients of the trajectory ops in what is peculiar to them."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops.backends import Backend
from ops.cases import MASKED, STEPPED, TRAJECTORIES, Inputs, Variant, gradients, sample_inputs, to
from ops.errors import assert_same, largest_logit
from ops.test_forward import check
from torch import Tensor

from svgdx import ops, reference

LOGITS = STEPPED[1]  # with an initial state


@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_wide(variant: Variant, backend: Backend) -> None:
    """Wide rows, and more rows than a block has threads."""
    for dim, steps in [(784, 5), (270, 270)] if backend.simulated else [(784, 784)]:
        check(variant, sample_inputs(variant, (1,), dim, steps, torch.float32, backend.device))
    check(variant, sample_inputs(variant, (2,), 784, 3, torch.bfloat16, backend.device))


@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_many_short_trajectories(variant: Variant, device: str) -> None:
    check(variant, sample_inputs(variant, (1000,), 4, 3, torch.float32, device))


@pytest.mark.parametrize("variant", [v for v in TRAJECTORIES if "linear" in v.op], ids=str)
def test_gradients_of_long_trajectories(variant: Variant) -> None:
    """They are formed trajectory by trajectory, also if only one sum has an upstream gradient."""
    for dtype, dim, steps in ((torch.float64, 150, 131), (torch.float32, 140, 140)):
        inputs = sample_inputs(variant, (3,), dim, steps, dtype, width=20)
        for which in (slice(0, 1), slice(1, 2), slice(0, 2)):
            actual = gradients(lambda values, which=which: variant(values)[which], inputs)
            expected = gradients(lambda values, which=which: variant.reference(values)[which], inputs)
            for name, value in actual.items():
                scale = expected[name].abs().max()
                torch.testing.assert_close(
                    value, expected[name], rtol=0, atol=float(scale) * 20 * torch.finfo(dtype).eps
                )
        torch.set_num_threads(2)
        again = gradients(lambda values: variant(values), inputs)
        assert all(torch.equal(again[name], value) for name, value in actual.items())


@pytest.mark.parametrize(("dim", "steps"), [(1, 1), (4, 4), (6, 2)])
def test_reference_is_a_walk(dim: int, steps: int) -> None:
    """The definition, step by step."""
    inputs = sample_inputs(LOGITS, (5,), dim, steps)
    for b, (log_pf, log_pb) in enumerate(zip(*LOGITS.reference(inputs), strict=True)):
        state, expected_pf, expected_pb = inputs["initial_state"][b].clone(), torch.zeros(()), torch.zeros(())
        for t, action in enumerate(inputs["actions"][b].tolist()):
            location, bit = divmod(action, 2)
            here, child = inputs["logits"][b, t, : 2 * dim], inputs["logits"][b, t + 1, 2 * dim :]
            assert state[location] == -1
            expected_pf = expected_pf + here[action] - here[(state == -1).repeat_interleave(2)].logsumexp(0)
            state[location] = bit
            expected_pb = expected_pb + child[location] - child[state >= 0].logsumexp(0)
        torch.testing.assert_close(log_pf, expected_pf, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_pb, expected_pb, rtol=1e-12, atol=1e-12)


def test_ragged_is_a_loop() -> None:
    inputs = sample_inputs(MASKED, (7,), 2, 3)
    logits, mask, actions, offsets = inputs.values()
    for b, total in enumerate(ops.masked_trajectory_log_prob(**inputs)):
        rows = range(int(offsets[b]), int(offsets[b + 1]))
        expected = sum((logits[n, actions[n]] - logits[n][mask[n]].logsumexp(0) for n in rows), torch.zeros(()))
        torch.testing.assert_close(total, expected.to(total.dtype), rtol=1e-12, atol=1e-12)


def test_the_ragged_op_agrees_with_the_trajectory_op(device: str) -> None:
    """P_F of full trajectories, expressed as rows of a general masked policy."""
    batch, dim = 3, 5
    inputs = sample_inputs(STEPPED[0], (batch,), dim, dim, device=device)
    log_pf, _ = STEPPED[0](inputs)
    taken = torch.nn.functional.one_hot(inputs["actions"] // 2, dim).cumsum(1) - torch.nn.functional.one_hot(
        inputs["actions"] // 2, dim
    )
    mask = (taken == 0).repeat_interleave(2, -1).flatten(0, 1)
    offsets = torch.arange(batch + 1, device=device) * dim
    rows = inputs["logits"][:, :-1, : 2 * dim].flatten(0, 1)
    ragged = ops.masked_trajectory_log_prob(rows, mask, inputs["actions"].flatten(), offsets)
    torch.testing.assert_close(ragged, log_pf, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_empty(variant: Variant, device: str) -> None:
    for lead, dim, steps in [((0,), 3, 2), ((2,), 3, 0), ((2,), 0, 0), ((), 0, 0)]:
        for out in variant(sample_inputs(variant, lead, dim, steps, torch.bfloat16, device)):
            assert out.dtype == torch.float32
            assert torch.equal(out, torch.zeros_like(out))
            assert out.numel() == (1 if lead == () else lead[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", [*STEPPED[:2], MASKED], ids=str)
def test_half_precision_logits_are_read_as_they_are(variant: Variant, dtype: torch.dtype, backend: Backend) -> None:
    """The result for the same logits in float32."""
    inputs = sample_inputs(variant, (3,), 33, 20, dtype, backend.device)
    for out, expected in zip(variant(inputs), variant(to(inputs, torch.float32)), strict=True):
        assert out.dtype == torch.float32
        assert_same(out, expected, backend, largest_logit(inputs))


def spoil_unread(variant: Variant, inputs: Inputs, value: float) -> Tensor:
    """Logits with ``value`` in the entries that no softmax reads."""
    logits = inputs["logits"].clone()
    if variant == MASKED:
        return logits.masked_fill(~inputs["mask"], value)
    dim, steps = logits.shape[-1] // 3, logits.shape[-2] - 1
    filled = (inputs["initial_state"] >= 0)[..., None, :].repeat(1, steps + 1, 1)
    for t in range(steps):
        filled[:, t + 1 :].scatter_(-1, (inputs["actions"][:, t, None, None] // 2).expand(-1, steps - t, 1), True)
    unread = torch.cat([filled.repeat_interleave(2, -1), ~filled], -1)
    unread[:, -1, : 2 * dim] = True
    unread[:, 0, 2 * dim :] = True
    return logits.masked_fill(unread, value)


@pytest.mark.parametrize("value", [1e4, float("inf"), float("nan")])
@pytest.mark.parametrize("variant", [LOGITS, MASKED], ids=str)
def test_logits_of_actions_that_are_not_valid_do_not_matter(variant: Variant, value: float, device: str) -> None:
    for dtype in (torch.float32, torch.float16):
        inputs = sample_inputs(variant, (3,), 19, 7, dtype, device)
        spoilt = {**inputs, "logits": spoil_unread(variant, inputs, value)}
        assert not torch.equal(spoilt["logits"], inputs["logits"])
        for out, expected in zip(variant(spoilt), variant(inputs), strict=True):
            assert torch.equal(out, expected)


@pytest.mark.parametrize("variant", [LOGITS, MASKED], ids=str)
def test_large_logits(variant: Variant, device: str) -> None:
    for shift, scale in [(1e4, 1.0), (-1e4, 1.0), (0.0, 1e4)]:
        for dtype in (torch.float32, torch.bfloat16):
            inputs = sample_inputs(variant, (4,), 12, 6, dtype, device)
            inputs["logits"] = inputs["logits"] * scale + shift
            check(variant, inputs)
            assert all(bool(out.isfinite().all()) for out in variant(inputs))


@pytest.mark.parametrize("variant", [LOGITS, MASKED], ids=str)
def test_impossible_actions(variant: Variant, device: str) -> None:
    """A logit of -inf excludes its action; a trajectory with such an action has log-probability -inf."""
    inputs = sample_inputs(variant, (6,), 5, 3, torch.float32, device)
    logits = inputs["logits"]
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    if variant == MASKED:
        inputs["mask"][:, :2] = True  # if only one action is allowed, -inf leaves none
        chosen.scatter_(-1, inputs["actions"][:, None], True)
    else:
        chosen[:, :-1].scatter_(-1, inputs["actions"][..., None], True)
        chosen[:, 1:].scatter_(-1, 10 + inputs["actions"][..., None] // 2, True)
    others = torch.rand(logits.shape, device=device) < 0.5
    inputs["logits"] = logits.masked_fill(others & ~chosen, -torch.inf)
    check(variant, inputs)
    assert all(bool(out.isfinite().all()) for out in variant(inputs))
    p_f = torch.arange(15, device=device) < 10  # P_B may have a single location to choose from
    inputs["logits"] = logits.masked_fill(chosen & others & p_f, -torch.inf)
    for out, expected in zip(variant(inputs), variant.reference(inputs), strict=True):
        assert torch.equal(out.isneginf(), expected.isneginf())
        assert not bool(out.isnan().any())


def test_probabilities_of_all_trajectories_sum_to_one() -> None:
    """Probabilities sum to one: over all orders and bits of D = 3 under P_F, and over all orders under P_B."""
    dim = 3
    orders = torch.tensor(list(itertools.permutations(range(dim))))
    bits = torch.tensor(list(itertools.product((0, 1), repeat=dim)))
    actions = (2 * orders[:, None] + bits).flatten(0, 1)
    # The logits depend on the state: random ones for each of the 3^D states.
    table = torch.randn(3**dim, 3 * dim, dtype=torch.float64)
    states = torch.full((len(actions), dim + 1, dim), -1)
    for t in range(dim):
        states[:, t + 1 :].scatter_(-1, (actions[:, t, None, None] // 2).expand(-1, dim - t, 1), 0)
        states[:, t + 1 :] += torch.zeros_like(states[:, t + 1 :]).scatter_(
            -1,
            (actions[:, t, None, None] // 2).expand(-1, dim - t, 1),
            (actions[:, t, None, None] % 2).expand(-1, dim - t, 1),
        )
    index = ((states + 1) * 3 ** torch.arange(dim)).sum(-1)
    log_pf, log_pb = ops.gfn_trajectory_log_prob(table[index], actions)
    torch.testing.assert_close(log_pf.exp().sum(), torch.ones((), dtype=torch.float64))
    by_end = torch.zeros(2**dim, dtype=torch.float64).index_add(
        0, (states[:, -1] * 2 ** torch.arange(dim)).sum(-1), log_pb.exp()
    )
    torch.testing.assert_close(by_end, torch.ones_like(by_end))
    assert reference.gfn_trajectory_log_prob(table[index], actions)[0].shape == log_pf.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", TRAJECTORIES, ids=str)
def test_gradients_in_half_precision(variant: Variant, dtype: torch.dtype, device: str) -> None:
    inputs = sample_inputs(variant, (2,), 21, 9, dtype, device)
    actual, wide = gradients(variant, inputs), gradients(variant, to(inputs, torch.float32))
    for name, grad in actual.items():
        assert grad.dtype == dtype
        if "linear" not in variant.op:
            assert torch.equal(grad, wide[name].to(dtype))
        else:
            # The layer's matrix products round to half precision, the logits' gradients too.
            error = (grad.double() - wide[name].double()).abs().max().item()
            assert error <= 16 * torch.finfo(dtype).eps * max(g.abs().max().item() for g in wide.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_entries_that_are_not_valid_get_exactly_zero(dtype: torch.dtype, device: str) -> None:
    dim, steps = 19, 7
    variant = STEPPED[1]
    inputs = sample_inputs(variant, (3,), dim, steps, dtype, device)
    grad = gradients(variant, inputs)["logits"]
    state = inputs["initial_state"].clone()
    rows = torch.arange(3, device=device)
    for t in range(steps + 1):
        valid = torch.cat([(state == -1).repeat_interleave(2, -1) & (t < steps), (state >= 0) & (t > 0)], -1)
        # With a single valid action the probability is 1, so its gradient is zero too.
        assert torch.equal(grad[:, t] == 0, ~valid | (valid.sum(-1, keepdim=True) == 1)) or t == 1
        assert bool((grad[:, t][~valid] == 0).all())
        if t < steps:
            action = inputs["actions"][:, t]
            state[rows, action // 2] = (action % 2).to(torch.int8)
    masked = sample_inputs(MASKED, (5,), 4, 3, dtype, device)
    grad = gradients(MASKED, masked)["logits"]
    assert bool((grad[~masked["mask"]] == 0).all())
    assert bool((grad[masked["mask"].sum(-1) > 1].abs().sum(-1) > 0).all())


@pytest.mark.parametrize("variant", [STEPPED[1], MASKED], ids=str)
def test_gradients_at_large_and_infinite_logits(variant: Variant, device: str) -> None:
    inputs = sample_inputs(variant, (4,), 6, 4, torch.float32, device)
    if variant == MASKED:
        inputs["mask"][:, 12:] = True
    p_f = torch.arange(18, device=device) < 12  # so that every softmax keeps an entry
    for change in (lambda x: x * 1e4, lambda x: x + 1e4, lambda x: x.masked_fill((x < -2) & p_f, -torch.inf)):
        changed = {**inputs, "logits": change(inputs["logits"])}
        grad = gradients(variant, changed)["logits"]
        assert bool(grad.isfinite().all())
        expected = gradients(variant.reference, to(changed, torch.float64))["logits"]
        torch.testing.assert_close(grad.double(), expected, rtol=1e-3, atol=2e-3)
