"""The machine code of CUDA kernels: instructions and loops, from `cuobjdump -sass` of a library or a cubin.

cuobjdump comes with the CUDA toolkit, with PyPI's nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, and with triton.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
TARGET = re.compile(r"0x([0-9a-f]+)\s*$")


@dataclass(frozen=True)
class Loop:
    """How often each opcode, with its modifiers, stands in a loop without the loops inside it."""

    first: int  # address
    last: int
    innermost: bool
    opcodes: Counter[str]

    def count(self, pattern: str) -> int:
        """The instructions whose opcode begins with `pattern`, a regular expression."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode))


@dataclass(frozen=True)
class Code:
    """One kernel: all its opcodes, and its loops in the order of their addresses."""

    opcodes: Counter[str]
    loops: tuple[Loop, ...]

    @property
    def innermost(self) -> list[Loop]:
        return [loop for loop in self.loops if loop.innermost]

    def loop_of(self, pattern: str, without: str = "$", innermost: bool = True) -> Loop | None:
        """The loop, or innermost loop, with most instructions of that kind and none of the other, or None."""
        candidates = self.innermost if innermost else self.loops
        loops = [loop for loop in candidates if loop.count(pattern) and not loop.count(without)]
        return max(loops, key=lambda loop: loop.count(pattern), default=None)

    def around(self, inner: Loop, pattern: str) -> Loop | None:
        """The smallest loop around another with instructions of that kind of its own, or None."""
        loops = [a for a in self.loops if a.first <= inner.first and inner.last <= a.last and a != inner]
        return min((a for a in loops if a.count(pattern)), key=lambda a: a.last - a.first, default=None)


def tool() -> tuple[str, dict[str, str]]:
    """cuobjdump and an environment in which it finds nvdisasm."""
    folders = [f"{home}/bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent / "backends" / "nvidia" / "bin"))
    path = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    program = shutil.which("cuobjdump", path=path)
    if program is None:
        raise SystemExit(
            "cuobjdump was not found in PATH, CUDA_HOME or triton: pip install nvidia-cuda-cuobjdump "
            "nvidia-cuda-nvdisasm, and put their folders into PATH."
        )
    return program, {**os.environ, "PATH": path}


def disassemble(binary: Path, architecture: int) -> str:
    program, environment = tool()
    command = [program, "-sass", "-arch", f"sm_{architecture}", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"cuobjdump could not disassemble {binary} for sm_{architecture}:\n{done.stderr[-2000:]}")
    return done.stdout


def parse(text: str) -> dict[str, Code]:
    """The code of every kernel of a disassembly, by its mangled name."""
    return {part.split(maxsplit=1)[0]: _code(part) for part in text.split("Function : ")[1:]}


def _code(part: str) -> Code:
    instructions = [(int(place, 16), opcode, rest) for place, opcode, rest in INSTRUCTION.findall(part)]
    jumps = []
    for place, opcode, rest in instructions:
        target = TARGET.search(rest.strip())
        # A kernel ends with a jump to itself, which is no loop.
        if opcode.startswith("BRA") and target and int(target[1], 16) < place:
            jumps.append((int(target[1], 16), place))
    loops = []
    for first, last in sorted(set(jumps)):
        inside = [a for a in jumps if a != (first, last) and first <= a[0] and a[1] <= last]
        own = [(place, opcode) for place, opcode, _ in instructions if first <= place <= last]
        opcodes = Counter(opcode for place, opcode in own if not any(a <= place <= b for a, b in inside))
        loops.append(Loop(first, last, not inside, opcodes))
    return Code(Counter(opcode for _, opcode, _ in instructions), tuple(loops))
