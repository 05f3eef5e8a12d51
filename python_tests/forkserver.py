"""Python programs that start in milliseconds: a server imports torch once and forks for each program.

An import of torch takes over two seconds, most of the time of a test that starts `svgdx`. The server imports the
packages below and never svgdx, which each program imports as it finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# torch._dynamo takes two seconds, and every optimiser imports it at its first step.
PRELOADED = (
    "torch", "torch.distributed", "torch.distributed.run", "torch._dynamo", "numpy", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "sklearn.datasets", "stable_baselines3", "safetensors.torch", "yaml", "zuko",
)  # fmt: skip
# Bytes of a request, which has the whole environment and the text of a program.
LARGEST = 1 << 17
# The environment variable that names the process that shares its server, and the server's folder.
SHARED = "SVGDX_TESTS_SERVER"

_servers: list[subprocess.Popen[bytes]] = []


class Process:
    """A started program, with the part of subprocess.Popen that the tests use; it is killed if this object dies."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.returncode = connection, None
        self.pid = int(connection.recv(32))

    def poll(self) -> int | None:
        """The exit status, minus the signal's number after a signal, or None while the program runs."""
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._read(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status; raises TimeoutError after `timeout` seconds."""
        self._read(timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _read(self, timeout: float) -> None:
        if self.returncode is None:
            self.connection.settimeout(timeout)
            self.returncode = int(self.connection.recv(32))


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Lets this process and those that it starts, such as the processes of pytest-xdist, use one server."""
    with tempfile.TemporaryDirectory(prefix="forkserver-") as folder:
        os.environ[SHARED] = f"{os.getpid()}:{folder}"
        try:
            yield
        finally:
            del os.environ[SHARED]


@functools.cache
def server() -> str:
    """The address of the server, which starts when the first program needs it and ends with the process that shares it.

    It is a server of this process alone outside `shared`.
    """
    if SHARED not in os.environ:
        own = shared()
        own.__enter__()
        atexit.register(own.__exit__, None, None, None)
    owner, folder = os.environ[SHARED].split(":", 1)
    address = f"{folder}/socket"
    with open(f"{folder}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(address):
            write_scripts(address)
            # OpenMP reads this once, and the programs would inherit what the server read.
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, address, owner]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
            deadline = time.monotonic() + 240
            while not os.path.exists(address):
                assert process.poll() is None, "the server ended before it started to serve"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
            _servers.append(process)
    return address


def start(
    arguments: Sequence[str], cwd: Path, out: IO[Any], error: IO[Any], environment: Mapping[str, str] = os.environ
) -> Process:
    """Starts `python ARGUMENTS`, that is `-m MODULE ...`, `-c TEXT ...` or `FILE ...`, in a folder.

    environment: may not change what Python itself reads, such as PYTHONPATH. Each program has one thread.
    """
    return request(server(), arguments, cwd, environment, out.fileno(), error.fileno())


def run(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str] = os.environ, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` printed and returned; arguments as for `start`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        status = start(arguments, cwd, out, error, environment).wait(timeout)
        texts = []
        for file in (out, error):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(list(arguments), status, *texts)


def scripts() -> Path:
    """A folder for the front of PATH, whose `python`, `svgdx` and `torchrun` start through the server."""
    return Path(server()).with_name("bin")


def write_scripts(address: str) -> None:
    folder = Path(address).with_name("bin")
    folder.mkdir()
    programs = {"python": [], "svgdx": ["-m", "svgdx"], "torchrun": ["-m", "torch.distributed.run"]}
    for name, prefix in programs.items():
        path = folder / name
        path.write_text(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"import forkserver\nsys.exit(forkserver.relay({address!r}, [*{prefix!r}, *sys.argv[1:]]))\n"
        )
        path.chmod(0o755)


def request(
    address: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], out: int, error: int
) -> Process:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    # torchrun starts its ranks by PYTHON_EXEC.
    environment = {**environment, "PYTHON_EXEC": str(Path(address).with_name("bin") / "python")}
    message = json.dumps({"arguments": [str(a) for a in arguments], "cwd": str(cwd), "environment": environment})
    socket.send_fds(connection, [message.encode()], [out, error])
    return Process(connection)


def relay(address: str, arguments: Sequence[str]) -> int:
    """Runs a program with this process's folder, environment, output and signals; returns its exit status."""
    if arguments[:1] == ["-"]:
        arguments = ["-c", sys.stdin.read(), *arguments[1:]]
    process = request(address, arguments, Path.cwd(), os.environ, 1, 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(process.pid, number))
    status = process.wait(600)
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def serve(address: str, owner: int) -> dict[str, Any]:
    """Forks for each request, and returns it in the new process alone; ends with the owner."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address + ".new")
    listener.listen()
    os.rename(address + ".new", address)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    ended = os.pidfd_open(owner)
    selector.register(ended, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == ended:
                os._exit(0)
            elif selector.get_map().get(key.fd) is not key:
                continue  # It went with an event before this one.
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                message, files, *_ = socket.recv_fds(connection, LARGEST, 2)
                pid = os.fork()
                if pid == 0:
                    selector.close()
                    os.close(ended)
                    listener.close()
                    connection.close()
                    for source, target in zip([os.open(os.devnull, os.O_RDONLY), *files], range(3), strict=True):
                        os.dup2(source, target)
                        os.close(source)
                    return dict(json.loads(message))
                for file in files:
                    os.close(file)
                connection.send(str(pid).encode())
                program = os.pidfd_open(pid)
                selector.register(program, selectors.EVENT_READ, (pid, connection))
                selector.register(connection, selectors.EVENT_READ, program)
            elif isinstance(key.data, int):
                # Whoever started the program is gone.
                selector.unregister(key.fileobj)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(key.data, signal.SIGKILL)
            else:
                pid, connection = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                with connection, contextlib.suppress(BrokenPipeError):
                    connection.send(str(status).encode())


def shortened(environment: Mapping[str, str]) -> contextlib.AbstractContextManager[None]:
    """Shortens the program's trainings, if the test that starts it shortens its own."""
    if "SVGDX_TESTS_QUICK" not in environment:
        return contextlib.nullcontext()
    from quick import quick

    return quick()


def run_program(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Runs a program as `python ARGUMENTS` would."""
    arguments = arguments[1:] if arguments[0] == "-u" else arguments
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kind, rest = (arguments[0], arguments[1:]) if arguments[0] in ("-m", "-c") else ("", arguments)
    sys.argv = ["-c" if kind == "-c" else rest[0], *rest[1:]]
    sys.path[0] = {"-m": cwd, "-c": "", "": str(Path(rest[0]).resolve().parent)}[kind]
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(rest[0], run_name="__main__")


def status_of(program: dict[str, Any]) -> int:
    """Runs a program and returns its exit status."""
    try:
        with shortened(program["environment"]):
            run_program(**program)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = status_of(serve(sys.argv[1], int(sys.argv[2])))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the deallocation of what the server imported, whose pages it would copy: over three seconds.
    os._exit(status)
