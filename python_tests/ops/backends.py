"""The backends that the tests of the ops run on, see conftest.py."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backend:
    """A backend: the CPU library, the CUDA library on the SIMT harness ("simt"), or the CUDA library on a GPU."""

    name: str
    device: str  # of its inputs

    @property
    def simulated(self) -> bool:
        """Whether the threads of a GPU are simulated, which takes about a microsecond per access to memory."""
        return self.name == "simt"

    @property
    def raises(self) -> bool:
        """Whether invalid values raise; a GPU marks them with NaN instead, because reading them would synchronise."""
        return self.name == "cpu"
