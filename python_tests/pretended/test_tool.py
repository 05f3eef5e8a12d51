"""The pretended GPU itself: what it refuses, what it counts, and that it changes no number."""

from __future__ import annotations

import copy
import io
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended.counts import Counts
from pretended.gpu import pretended_cuda
from pretended.kernels import dispatched, has_cuda_kernel, sourced
from pretended.tensors import PretendedTensor
from torch import Tensor, nn

from svgdx import _library, ops


def kinds(counter: Counter[Any]) -> dict[str, int]:
    """The number of events of each kind."""
    totals: Counter[str] = Counter()
    for event, count in counter.items():
        totals[event.kind] += count
    return dict(totals)


def test_tensors_say_where_they_are() -> None:
    with pretended_cuda():
        x = torch.ones(3, device="cuda")
        made = [x, x + 1, torch.zeros_like(x), x.new_zeros(2), x.new_tensor([1.0]), torch.tensor([1.0]).to(x.device)]
        made += [torch.arange(3, device=x.device), x.double(), x[:1], torch.as_tensor([1.0], device="cuda"), x.detach()]
        assert all(isinstance(y, PretendedTensor) and y.is_cuda and y.device == torch.device("cuda:0") for y in made)
        assert [y.device.type for y in (x.cpu(), x.to("cpu"), torch.ones(1), x.to(torch.ones(1)))] == ["cpu"] * 4
        assert torch.equal(x.cpu(), torch.ones(3))
        module = nn.Linear(2, 2).to("cuda")
        assert all(parameter.is_cuda for parameter in copy.deepcopy(module).parameters())
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "pretended GPU"
    assert torch.ones(1).device.type == "cpu"


PLANTED = torch.library.Library("svgdx_planted", "FRAGMENT")
PLANTED.define("twice(Tensor x) -> Tensor")
PLANTED.impl("twice", lambda x: 2 * x, "CPU")

REFUSED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "a CPU tensor beside it": (lambda x: x + torch.ones(3), RuntimeError, "at least two devices"),
    "a CPU tensor in a list": (lambda x: torch.cat([x, torch.ones(3)]), RuntimeError, "at least two devices"),
    "CPU particles in an op": (lambda x: ops.svgd_phi(x[None], torch.ones(1, 3), 1.0), RuntimeError, "two devices"),
    "numpy": (lambda x: x.numpy(), TypeError, "can't convert cuda:0 device type tensor to numpy"),
    "a generator of the CPU": (
        lambda x: torch.randn(3, device=x.device, generator=torch.Generator()), RuntimeError, "Expected a 'cuda'",
    ),
    "a generator of the CPU, in place": (
        lambda x: x.normal_(generator=torch.Generator()), RuntimeError, "Expected a 'cuda'",
    ),
    "a generator of CUDA for the CPU": (
        lambda x: torch.randn(3, generator=torch.Generator("cuda")), RuntimeError, "Expected a 'cpu'",
    ),
    "an op of the CPU alone": (
        lambda x: torch.ops.svgdx_planted.twice(x), NotImplementedError, "'CUDA' backend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_what_a_gpu_refuses(name: str) -> None:
    call, error, message = REFUSED[name]
    with pretended_cuda(), pytest.raises(error, match=message):
        call(torch.ones(3, device="cuda"))


def test_0d_tensors_of_the_cpu_and_python_numbers_are_fine() -> None:
    with pretended_cuda():
        x = torch.ones(3, device="cuda")
        y = x * torch.tensor(2.0) + 1
        assert torch.equal(torch.where(y > 2, y, 0.0).cpu(), torch.full((3,), 3.0))


COUNTED: dict[str, tuple[Callable[[Tensor], Any], dict[str, dict[str, int]]]] = {
    "arithmetic": (lambda x: (x + 1).exp(), {"launches": {"aten::add": 1, "aten::exp": 1}}),
    "views": (lambda x: x.view(1, 3)[0].detach().unsqueeze(0).expand(2, 3), {}),
    "item": (lambda x: x.sum().item(), {"launches": {"aten::sum": 1}, "waits": {"aten::_local_scalar_dense": 1}}),
    "tolist": (lambda x: x.tolist(), {"waits": {"tolist": 1}}),
    "bool": (lambda x: bool(x[0]), {"waits": {"aten::_local_scalar_dense": 1}}),
    "cpu": (lambda x: x.cpu(), {"waits": {"copy to the host": 1}}),
    "nonzero": (lambda x: x.nonzero(), {"launches": {"aten::nonzero": 1}, "waits": {"aten::nonzero": 1}}),
    "a mask": (lambda x: x[x.bool()], {
        "launches": {"aten::_to_copy": 1, "aten::index": 1}, "waits": {"index by a mask": 1},
    }),
    "tensor": (lambda x: torch.tensor([1.0, 2.0], device="cuda"), {"copies": {"tensor": 1}}),
    "to": (lambda x: torch.ones(2).to(x.device), {"copies": {"to": 1}}),
    "an index of the CPU": (lambda x: x[torch.tensor([0, 2])], {
        "launches": {"aten::index": 1}, "copies": {"index": 1},
    }),
    "a factory": (lambda x: torch.zeros(2, device="cuda"), {"launches": {"zeros": 1}}),
    "memory": (lambda x: torch.empty(2, device="cuda"), {}),
    "median_distance": (lambda x: ops.median_distance(x[:, None]), {"launches": {"svgdx::median_distance": 7}}),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_it_counts_launches_waits_and_copies(name: str) -> None:
    call, expected = COUNTED[name]
    with pretended_cuda() as counts:
        x = torch.zeros(3, device="cuda")
        counts.clear()
        call(x)
        counted = {name: kinds(getattr(counts, name)) for name in ("launches", "waits", "copies")}
    assert {name: events for name, events in counted.items() if events} == expected


def test_an_event_names_its_file_and_line() -> None:
    with pretended_cuda() as counts:
        x = torch.ones(2, 1, device="cuda")
        counts.clear()
        ops.svgd_phi(x, x, 1.0)
        x.sum().item()
        places = {event.kind: event.place for event in (*counts.launches, *counts.waits)}
    assert all(re.fullmatch(r"test_tool\.py:\d+", places[kind]) for kind in places)
    assert "svgdx::svgd_phi" in places
    assert "x svgdx::svgd_phi at test_tool.py" in str(counts)


def trained(device: str) -> tuple[list[Tensor], Counts | None]:
    """Parameters and moments of a small network after steps of fused Adam on a loss with a gradient of a gradient."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    module.to(device)
    adam = torch.optim.Adam(module.parameters(), fused=True)
    for _ in range(3):
        leaf = x.to(device).requires_grad_()
        value = module(leaf).sum()
        (score,) = torch.autograd.grad(value, leaf, create_graph=True)
        loss = value.square() + ops.svgd_phi(leaf, score, 1.0).square().mean()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adam.step()
    moments = [value for state in adam.state.values() for value in state.values()]
    return [value.detach().cpu() for value in [*module.parameters(), *moments]], None


def test_it_changes_no_number() -> None:
    expected, _ = trained("cpu")
    with pretended_cuda():
        numbers, _ = trained("cuda")
    assert all(torch.equal(one, other) for one, other in zip(expected, numbers, strict=True))


def test_its_default_generator_is_another_than_that_of_the_cpu() -> None:
    with pretended_cuda():
        torch.manual_seed(3)
        of_cpu, state = torch.get_rng_state(), torch.cuda.get_rng_state()
        first = [torch.randn(2, device="cuda"), torch.empty(2, device="cuda").exponential_()]
        first.append(torch.rand_like(first[0]))
        assert torch.equal(torch.get_rng_state(), of_cpu)
        torch.cuda.set_rng_state(state)
        again = [torch.randn(2, device="cuda"), torch.empty(2, device="cuda").exponential_()]
        again.append(torch.rand_like(first[0]))
        assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(first, again, strict=True))
        with torch.random.fork_rng():
            torch.manual_seed(4)
        assert not torch.equal(torch.cuda.get_rng_state(), state)


def test_files_hold_plain_tensors() -> None:
    with pretended_cuda():
        file = io.BytesIO()
        torch.save({"x": torch.ones(2, device="cuda")}, file)
        assert torch.load(io.BytesIO(file.getvalue()), map_location="cuda")["x"].is_cuda
    assert torch.equal(torch.load(io.BytesIO(file.getvalue()))["x"], torch.ones(2))


def test_the_sources_tell_which_ops_have_a_cuda_body() -> None:
    bodies = sourced()
    assert bodies["svgdx::svgd_phi"]
    assert bodies["svgdx::svgd_phi.number"]
    assert bodies["svgdx_inner::mlp_rollout"]
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(("svgdx::", "svgdx_inner::"))]
    assert bodies.keys() == set(names)
    if torch.version.cuda is not None and _library.libraries["cuda"].loaded:
        assert bodies == {name: dispatched(name) for name in names}
    assert has_cuda_kernel(torch.ops.aten.add.Tensor)
