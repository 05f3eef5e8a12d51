"""Writes libc.so and libm.so for the linker, with this system's symbols in the versions that glibc 2.28 had.

Usage: old_glibc.py COMPILER FOLDER. What is linked with -L FOLDER then runs with every glibc from 2.28 on: glibc keeps
each old version of a function, such as exp@GLIBC_2.2.5, and the linker takes the newest version that it sees. The
libraries hold no code, and are only for linking.
"""

import pathlib
import re
import subprocess
import sys

NEWEST = (2, 28)
KINDS = {"FUNC": "function", "IFUNC": "function", "OBJECT": "object", "TLS": "tls_object", "NOTYPE": "notype"}


def main(compiler: str, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_library(compiler, "libm.so.6", folder / "libm.so")
    write_library(compiler, "libc.so.6", folder / "libc.so.6")
    # On glibc, libc.so is a text that also names the part of libc that is linked statically.
    text = path_of(compiler, "libc.so").read_text()
    (folder / "libc.so").write_text(re.sub(r"\S*/libc\.so\.6\b", str(folder / "libc.so.6"), text))


def path_of(compiler: str, name: str) -> pathlib.Path:
    """Where the compiler finds a library."""
    path = subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
    if path == name:
        raise SystemExit(f"{compiler} does not find {name}; only Linux systems with glibc can link for an older glibc.")
    return pathlib.Path(path)


def write_library(compiler: str, soname: str, output: pathlib.Path) -> None:
    """Links a library of the same symbols, each in its newest version up to NEWEST."""
    table = subprocess.check_output(["readelf", "--wide", "--dyn-syms", path_of(compiler, soname)], text=True)
    assembly, by_version = [], {}
    for name, (version, kind) in sorted(newest_versions(table).items()):
        assembly.append(f".globl {name}\n.type {name}, %{kind}\n{name}:\n.size {name}, 8")
        by_version.setdefault(version, []).append(name)
    source, script = output.with_suffix(".s"), output.with_suffix(".map")
    source.write_text(".data\n" + "\n".join(assembly) + "\n")
    nodes = (f"GLIBC_{'.'.join(map(str, version))} {{ {'; '.join(names)}; }};" for version, names in by_version.items())
    script.write_text("\n".join(nodes) + "\n")
    link = ["-shared", "-nostdlib", f"-Wl,-soname,{soname}", f"-Wl,--version-script,{script}"]
    subprocess.run([compiler, *link, source, "-o", output], check=True)


def newest_versions(table: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Version and kind of each symbol that readelf lists as defined, e.g. exp: ((2, 2, 5), function)."""
    newest: dict[str, tuple[tuple[int, ...], str]] = {}
    for kind, name, number in re.findall(r" (\w+) +(?:GLOBAL|WEAK) +DEFAULT +\d+ (\w+)@@?GLIBC_([\d.]+)$", table, re.M):
        version = tuple(map(int, number.split(".")))
        if version <= NEWEST and (name not in newest or version > newest[name][0]):
            newest[name] = version, KINDS[kind]
    return newest


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]).resolve())
