"""The device of a command: what --device asks for, resolved once, with the reason; and whether --graph captures."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import torch

from svgdx import _library
from svgdx.experiments.run.errors import UsageError

NAMES = "auto|cpu|cuda|cuda:N"
# Values of --graph.
GRAPHS = ("auto", "on", "off")
_PATTERN = re.compile(r"auto|cpu|cuda(:\d+)?")


class Choice(NamedTuple):
    """A device, as config.yaml names it: cpu, cuda or cuda:N. `reason` says why `auto` takes it."""

    name: str
    reason: str


def automatic() -> Choice:
    """The device that `auto` takes: CUDA if torch sees a GPU and svgdx's CUDA library is loaded, otherwise the CPU."""
    missing = without_cuda()
    if missing is not None:
        return Choice("cpu", missing)
    return Choice("cuda", f"torch sees {torch.cuda.get_device_name(0)}, and svgdx's CUDA library is loaded")


def without_cuda(number: int = 0) -> str | None:
    """Why CUDA cannot be used here, on the GPU of this number; None if it can."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return "torch sees no GPU" + ("" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible!r}")
    library = _library.libraries["cuda"]
    # The reference in plain PyTorch needs no library.
    if _library.disabled():
        return None
    if not library.loaded:
        return f"svgdx's CUDA library is not loaded: {library.reason}"
    if number < torch.cuda.device_count() and not built_for(torch.cuda.get_device_capability(number)):
        major, minor = torch.cuda.get_device_capability(number)
        return f"svgdx's CUDA library was not built for {torch.cuda.get_device_name(number)} (sm_{major}{minor})"
    return None


def built_for(capability: tuple[int, int]) -> bool:
    """Whether the CUDA library that was built has code for a GPU of this compute capability, (major, minor)."""
    facts = _library.build_facts()
    if facts is None or not facts["cuda"]["built"]:
        return True
    number = 10 * capability[0] + capability[1]
    return any(runs_on(number, architecture) for architecture in facts["cuda"]["architectures"])


def runs_on(capability: int, architecture: str) -> bool:
    """Whether code for an architecture, such as "90-real", "90a-real" or "120-virtual", runs on such a GPU."""
    code, kind = architecture.split("-")
    number = int(code.rstrip("af"))
    if code.endswith("a"):
        return capability == number
    if kind == "virtual" and not code.endswith("f"):
        return capability >= number
    return capability // 10 == number // 10 and capability >= number


def resolved(name: str) -> str:
    """What --device means here: cpu, cuda or cuda:N.

    Raises:
        UsageError: the name is not one of NAMES, or this machine does not have that device; the message says why.
    """
    check(name)
    if name == "auto":
        return automatic().name
    if name == "cpu":
        return name
    _, _, number = name.partition(":")
    missing = without_cuda(int(number or local_rank()))
    if missing is not None:
        raise UsageError(f"--device {name}: CUDA cannot be used: {missing}; pass --device cpu to compute on the CPU")
    if number and ranks_launched() > 1:
        raise UsageError(f"--device {name}: torchrun gives each process a GPU of its own; pass --device cuda")
    count = torch.cuda.device_count()
    if int(number or local_rank()) >= count:
        wanted = f"process {local_rank()} of this machine" if not number else name
        raise UsageError(f"--device {name}: there is no GPU for {wanted}, because torch sees only {count}")
    return name


def check(name: str) -> None:
    """Raises UsageError if --device cannot have this value on any machine."""
    if not _PATTERN.fullmatch(name):
        raise UsageError(f"--device: must be one of {NAMES.replace('|', ', ')}, but is {name!r}")


def torch_device(name: str) -> torch.device:
    """The device of this process that --device names: cuda is the GPU of its LOCAL_RANK.

    Raises UsageError as `resolved`.
    """
    name = resolved(name)
    return torch.device("cuda", local_rank()) if name == "cuda" else torch.device(name)


def ranks_launched() -> int:
    """The number of ranks that torchrun starts; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process among those that torchrun starts on this machine; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def graph_obstacle(device: str, uncapturable: str | None) -> str | None:
    """Why the updates of a run are not captured; None if they are.

    Args:
        device: as config.yaml names it.
        uncapturable: why the updates of its settings cannot be captured on any device; None if they can.
    """
    if not device.startswith("cuda"):
        return f"this run computes on the {device.upper()}"
    if ranks_launched() > 1:
        return "the gradients of several processes are averaged by hooks that a graph does not hold"
    if _library.disabled():
        return "the reference that SVGDX_DISABLE=1 selects copies constants from the host"
    return uncapturable


def is_captured(mode: str, device: str, uncapturable: str | None) -> bool:
    """Whether --graph, one of GRAPHS, captures the updates of a run; arguments as of `graph_obstacle`.

    Raises UsageError if it is "on" and cannot be.
    """
    reason = graph_obstacle(device, uncapturable)
    if mode == "on" and reason is not None:
        raise UsageError(f"--graph on: no update can be captured, because {reason}; pass --graph auto")
    return mode != "off" and reason is None
