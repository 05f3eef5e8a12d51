"""Ops from C++.

The program ops_from_cpp.cpp loads the compiled library, without Python, and calls its ops through PyTorch's dispatcher.
This script compiles it, lets it move particles to a Gaussian, and compares them with those of `svgdx.ops.svgd_phi`.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch

import svgdx

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="fewer steps: a few seconds, most of them of the compiler")
parser.add_argument("--out", default="ops_from_cpp.png", help="picture")
options = parser.parse_args()
torch.manual_seed(0)
PARTICLES, STEPS, STEP_SIZE = 200, 200 if options.quick else 2000, 0.5
SOURCE = pathlib.Path(__file__).with_suffix(".cpp")
LIBRARY = pathlib.Path(svgdx.__file__).parent / "lib" / "libsvgdx_cpu.so"
TORCH = pathlib.Path(torch.__file__).parent
LINK = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", f"-Wl,-rpath-link,{TORCH}/lib", "-ltorch_cpu", "-lc10", "-ldl"]


def move(compiler, start):
    """Particles (M, D) float64 that the C++ program makes of a start of the same shape."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "ops_from_cpp"
        subprocess.run([compiler, "-std=c++20", f"-I{TORCH}/include", SOURCE, "-o", program, *LINK], check=True)
        arguments = [LIBRARY, *start.shape, STEPS, STEP_SIZE]
        command = [program, *map(str, arguments)]
        moved = subprocess.run(command, input=start.numpy().tobytes(), stdout=subprocess.PIPE, check=True)
    return torch.from_numpy(np.frombuffer(moved.stdout).reshape(start.shape).copy())


compiler = shutil.which("g++") or shutil.which("clang++")
if compiler is None:
    raise SystemExit("this example needs a C++ compiler, g++ or clang++")
start = 0.5 * torch.randn(PARTICLES, 2, dtype=torch.float64) + torch.tensor([4.0, 3.0])
x = move(compiler, start)
expected = start
for _ in range(STEPS):
    expected = expected + STEP_SIZE * svgdx.ops.svgd_phi(expected, -expected, 1.0)

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for points, label in ((start, "start"), (x, f"after {STEPS} steps in C++")):
    axes.plot(*points.T.numpy(), ".", label=label)
axes.legend()
figure.savefig(options.out, dpi=110)
print(
    f"largest difference between C++ and Python {(x - expected).abs().max():.0e}; "
    f"mean ({x[:, 0].mean():.3f}, {x[:, 1].mean():.3f}), truth (0, 0)"
)
