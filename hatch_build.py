"""Compile the few lines of C while the wheel (or the editable install) is made.

The kind of a source is told by its name: `native/podnet-X.c` becomes the executable `podnet-X` beside `podnet`,
`native/libX.c` the shared library `podnet/_native/libX.so`, `native/X.bpf.c` the object `podnet/_native/X.bpf.o`.
Everything lands in podnet/_native/, which git ignores, so an editable install finds it where a wheel has it.

Executables are static, so they run beside any libc, and are linked with musl where it is installed: a runtime waits for
their start, which costs 0.15 ms of CPU then, with glibc 0.5 (static, it asks what the CPU can do) to 0.7 (dynamic).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HARDENED = [
    "-O2", "-Wall", "-Wextra", "-Werror", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fstack-clash-protection",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
]  # fmt: skip


def recipe(source: Path, out: Path) -> tuple[Path, list[str]]:
    """The file that `source` becomes below `out`, and the command that makes it."""
    name = source.name.removesuffix(".c")
    if name.endswith(".bpf"):
        target = out / f"{name}.o"
        include = f"-I/usr/include/{platform.machine()}-linux-gnu"
        return target, ["clang", "-O2", "-g", "-target", "bpf", include, "-c", str(source), "-o", str(target)]
    if name.startswith("lib"):
        target = out / f"{name}.so"
        return target, [os.environ.get("CC", "cc"), *HARDENED, "-fPIC", "-shared", "-o", str(target), str(source)]
    target = out / name
    compiler = os.environ.get("CC") or shutil.which("musl-gcc") or "cc"
    return target, [compiler, *HARDENED, "-static", "-o", str(target), str(source)]


class NativeBuildHook(BuildHookInterface[Any]):
    """hatchling calls `initialize` once per wheel; `shared_scripts` is what lands in the environment's bin/."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        out = Path(self.root) / "podnet" / "_native"
        out.mkdir(exist_ok=True)
        for source in sorted((Path(self.root) / "native").glob("*.c")):
            target, command = recipe(source, out)
            subprocess.run(command, check=True)
            if source.name.startswith("podnet-"):
                build_data["shared_scripts"][str(target)] = target.name
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
