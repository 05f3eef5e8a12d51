"""Updates as CUDA graphs, on the pretended GPU: what may be captured, and what a replay reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended.gpu import pretended_cuda
from torch import Tensor

from svgdx import Stream
from svgdx.experiments.run.compute.graph import WARM_UP, Graphs
from svgdx.experiments.run.errors import UsageError

CUDA = "cuda"


class Line:
    """A number that is trained; `update` is captured."""

    def __init__(self, captures: bool) -> None:
        self.weight = torch.ones(2, device=CUDA, requires_grad=True)
        self.adam = torch.optim.Adam([self.weight], 0.5, fused=True)
        self.graphs = Graphs(torch.device(CUDA), [self.adam], captures)

    def update(self, noise: Stream, scale: float | Tensor, target: Tensor) -> dict[str, Any]:
        self.adam.zero_grad()
        loss = (self.weight - target + scale * noise.normal((2,))).square().sum()
        loss.backward()
        self.adam.step()
        return {"loss": loss.detach(), "count": 2}


def trained(captures: bool, updates: int = WARM_UP + 4) -> list[float]:
    """Losses and the final weight of a training in which every input changes, the learning rate included."""
    line, losses = Line(captures), []
    for step in range(updates):
        line.adam.param_groups[0]["lr"] = 0.5 ** (1 + step % 3)
        target = torch.full((2,), float(step), device=CUDA)
        inputs = {"noise": Stream(0, step, device=CUDA), "scale": 0.25 * step, "target": target}
        result = line.graphs.run("update", line.update, **inputs)
        assert result["count"] == 2
        losses.append(result["loss"].item())
    return [*losses, *line.weight.tolist()]


def test_replays_read_every_input_anew() -> None:
    with pretended_cuda():
        assert trained(True) == trained(False)


def test_a_replay_is_one_launch_beside_those_that_write_its_inputs() -> None:
    with pretended_cuda() as counts:
        trained(True, WARM_UP + 1)
        line = Line(True)
        target = torch.zeros(2, device=CUDA)
        for step in range(WARM_UP + 2):
            counts.clear()
            line.graphs.run("update", line.update, noise=Stream(0, step, device=CUDA), scale=0.5, target=target)
        kinds = {event.kind: count for event, count in counts.launches.items()}
        assert kinds == {"aten::fill_": 1, "aten::copy_": 1, "a graph": 1}
        assert counts.totals()["waits"] == counts.totals()["copies"] == 0


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x.sum().item(), "_local_scalar_dense"),
    "a decision of the host": (lambda x: bool(x.any()), "_local_scalar_dense"),
    "a mask": (lambda x: x[x > 0], "index by a mask"),
    "a copy from the host": (lambda x: torch.tensor([1.0], device=CUDA), "a copy from the host"),
    "a draw of torch": (lambda x: torch.rand_like(x), "draws from torch's generator"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_capture_forbids_is_refused_with_the_way_out(name: str) -> None:
    update, message = REFUSED[name]
    with pretended_cuda():
        x, graphs = torch.ones(3, device=CUDA), Graphs(torch.device(CUDA), [], True, required=True)
        for _ in range(WARM_UP):
            graphs.run("update", lambda: update(x))
        with pytest.raises(UsageError, match=rf"--graph on: .*{message}.*pass --graph auto"):
            graphs.run("update", lambda: update(x))


class Waiting(Line):
    """Its second kind of update waits for the GPU, after it has moved the weight."""

    def update(self, noise: Stream, scale: float | Tensor, target: Tensor) -> dict[str, Any]:
        result = super().update(noise, scale, target)
        if noise.device.type == "cuda" and self.waits:
            result["loss"].item()
        return result

    waits = False


def test_a_capture_that_fails_is_reported_once_and_changes_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the update in which it fails, nor those of kinds that were captured before."""

    def numbers(captures: bool) -> list[float]:
        line, losses = Waiting(captures), []
        for step in range(2 * WARM_UP + 6):
            line.waits = step % 2 == 1
            inputs = {"noise": Stream(0, step, device=CUDA), "scale": 0.5, "target": torch.ones(2, device=CUDA)}
            losses.append(line.graphs.run(line.waits, line.update, **inputs)["loss"].item())
        assert not line.graphs.captures
        return [*losses, *line.weight.tolist(), *(state["step"].item() for state in line.adam.state.values())]

    with pretended_cuda():
        expected, stream = numbers(False), torch.cuda.current_stream()
        assert numbers(True) == expected
        # The update goes on where the others were, though torch leaves the stream of the capture current.
        assert torch.cuda.current_stream() is stream
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "warning: an update cannot be captured" in warnings[0]
    assert "the run continues without graphs: operation not permitted when stream is capturing" in warnings[0]


def test_the_tool_shows_a_number_of_the_host_that_was_baked_in() -> None:
    with pretended_cuda():
        graphs = Graphs(torch.device(CUDA), [], True)
        total = torch.zeros((), device=CUDA)
        for step in range(WARM_UP + 3):
            graphs.run("update", lambda step=step: total.add_(step))
        # The replays add the number of the capture.
        assert total.item() == sum(range(WARM_UP)) + 3 * WARM_UP


def test_the_tool_shows_memory_that_was_freed() -> None:
    with pretended_cuda():
        graphs, memory = Graphs(torch.device(CUDA), [], True), {"x": torch.ones(3, device=CUDA)}
        for _ in range(WARM_UP + 2):
            result = graphs.run("update", lambda: memory["x"] + 1)
        memory["x"] = torch.zeros(3, device=CUDA)
        with pytest.raises(RuntimeError, match="memory that was freed"):
            graphs.run("update", lambda: memory["x"] + 1)
        assert result.tolist() == [2.0] * 3


def test_other_shapes_and_constants_are_another_kind() -> None:
    with pretended_cuda():
        graphs = Graphs(torch.device(CUDA), [], True)
        for count in [2, 3] * (WARM_UP + 2):
            for power in ("1", "2"):
                inputs = {"x": torch.full((count,), 3.0, device=CUDA), "power": power}
                result = graphs.run("update", lambda x, power: x ** int(power), **inputs)
                assert result.tolist() == [3.0 ** int(power)] * count


def test_without_graphs_the_inputs_are_as_they_are() -> None:
    graphs = Graphs(torch.device("cpu"), [], False)
    inputs = {"seed": 3, "rate": 0.1, "stream": Stream(0), "x": torch.ones(2), "nested": {"a": [1.0, None]}}
    result = graphs.run("update", lambda **named: named, **inputs)
    assert all(result[name] is value for name, value in inputs.items())
