"""Another kernel for a test: User-Mode Linux, a Linux that is an ordinary process and boots in two seconds.

For what this machine's kernel has not. It sees this machine's files, read-only, has a network of its own with nothing
in it, and runs one pytest file as root. Debian's package user-mode-linux brings a kernel with modules; its nf_tables
knows neither IPv4 nor IPv6, so a test has to look what it can do. PODNET_UML names another kernel (one that was built
with `make ARCH=um`, everything built in, has no such gaps).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

KERNEL = os.environ.get("PODNET_UML") or shutil.which("linux.uml") or ""
MODULES = "/usr/lib/uml/modules"
REPOSITORY = Path(__file__).parents[2]

_INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 TMPDIR=/run/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /run/tmp /run/modules/lib
ln -s {modules} /run/modules/lib/modules
printf '#!/bin/sh\\nexec /sbin/modprobe -d /run/modules "$@"\\n' > /run/modprobe
chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
for module in {wanted}; do /run/modprobe -q $module; done
ip link set lo up
cd {repository}
{python} -m pytest -q --color=no -p no:cacheprovider {file}
echo "{mark} $?"
/sbin/poweroff -f
"""


def run_inside(file: str, folder: Path, modules: str, seconds: float) -> tuple[int, str]:
    """Run a file of tests in there, with these modules loaded if it has them; its exit code and all that it said.

    `folder` is for the kernel's own files. The code is -1 when it did not end by itself within so many seconds.
    """
    mark = "the tests ended with"
    init = folder / "init"
    init.write_text(
        _INIT.format(
            modules=MODULES, wanted=modules, repository=REPOSITORY, python=sys.executable, file=file, mark=mark
        )
    )
    init.chmod(0o755)
    words = [KERNEL, "mem=1G", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
    words += [f"init={init}", f"uml_dir={folder}", "umid=kernel", "con=null", "con0=fd:0,fd:1"]
    machine = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said = machine.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(machine.pid, signal.SIGKILL)  # it is several processes, in a session of their own
        said = machine.communicate()[0]
    text = said.decode(errors="replace").replace("\r", "")
    found = re.search(rf"^{mark} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else -1, text
