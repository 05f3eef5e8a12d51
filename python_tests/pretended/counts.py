"""What a step costs on a GPU: kernel launches, waits of the host, and copies from host to device, by kind and line."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import svgdx

PACKAGE = str(Path(svgdx.__file__).parent) + "/"
# Calls pass through the wrappers of the ops and through this tool.
OPS = PACKAGE + "ops/"
TOOL = tuple(str(Path(__file__).with_name(name)) for name in ("counts.py", "tensors.py", "gpu.py"))


class Event(NamedTuple):
    """Something that costs time on a GPU: what it is, and the file and line that caused it."""

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}"


@dataclass
class Counts:
    """How often each event happened. While a graph is captured nothing is launched, and the host must not wait."""

    launches: Counter[Event] = field(default_factory=Counter)
    waits: Counter[Event] = field(default_factory=Counter)
    copies: Counter[Event] = field(default_factory=Counter)
    capturing: bool = False

    def launch(self, kind: str, count: int = 1) -> None:
        if count > 0 and not self.capturing:
            self.launches[Event(kind, place())] += count

    def wait(self, kind: str) -> None:
        self._refuse(kind)
        self.waits[Event(kind, place())] += 1

    def copy_from_host(self, kind: str) -> None:
        self._refuse(f"a copy from the host, {kind}")
        self.copies[Event(kind, place())] += 1

    def _refuse(self, kind: str) -> None:
        if self.capturing:
            raise RuntimeError(f"operation not permitted when stream is capturing: {kind} (at {place()})")

    def totals(self) -> dict[str, int]:
        """The number of events of each of the three sorts."""
        return {"launches": self.launches.total(), "waits": self.waits.total(), "copies": self.copies.total()}

    def clear(self) -> None:
        for counter in (self.launches, self.waits, self.copies):
            counter.clear()

    def __str__(self) -> str:
        lines = [str(self.totals())]
        for name, counter in (("launches", self.launches), ("waits", self.waits), ("copies", self.copies)):
            lines += [f"  {name}: {count:5d} x {event}" for event, count in counter.most_common(20)]
        return "\n".join(lines)


def place() -> str:
    """File and line of the innermost frame in the package, otherwise of the innermost one outside torch.

    A backward pass counts where it was started.
    """
    frame, fallback = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(OPS):
            return f"{name.removeprefix(PACKAGE)}:{frame.f_lineno}"
        if not fallback and not name.startswith((*TOOL, OPS)) and "/torch/" not in name:
            fallback = f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return fallback
