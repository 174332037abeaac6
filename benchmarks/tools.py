"""Programs and libraries that only contestants need: the one place that names and installs them.

`make bench` asks for them with ``python -m benchmarks.tools``; what cannot be installed is said,
and the contestant is left out later by whoever looks for it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

__all__ = ["APT", "PYPI", "has_module", "install", "missing"]

#: Program to the Debian packages that bring it.
APT = {
    "sshd": ("openssh-server",),
    "ssh": ("openssh-client",),
    "openssl": ("openssl",),
    "nginx": ("nginx-light", "libnginx-mod-stream"),
    "stunnel": ("stunnel4",),
    "ip": ("iproute2",),
}
#: Module to its distribution; the extra `bench` of setup.cfg has the lower bounds.
PYPI = {"asyncssh": "asyncssh", "matplotlib": "matplotlib"}


def has_module(name: str) -> bool:
    """Tell whether a Python module could be imported."""
    return importlib.util.find_spec(name) is not None


def missing() -> tuple[list[str], list[str]]:
    """Return the Debian packages and the Python distributions that are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    debian = [
        package
        for program, packages in APT.items()
        if shutil.which(program, path=path) is None
        for package in packages
    ]
    return debian, [name for module, name in PYPI.items() if not has_module(module)]


def _run(*words: str) -> None:
    sys.stderr.write(f"bench installs: {' '.join(words)}\n")
    done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.stderr.write(f"bench: that failed with status {done.returncode}; going on without\n")


def install() -> None:
    """Install what is missing, as far as that is possible, and say so."""
    debian, python = missing()
    if debian and os.geteuid() == 0 and shutil.which("apt-get"):
        _run("apt-get", "update", "-qq")
        # RUNLEVEL=1: invoke-rc.d(8) then starts no service (Debian packages start theirs)
        _run("env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "install", "-y",
             "-qq", *debian)  # fmt: skip
    elif debian:
        sys.stderr.write(f"bench: not installed and not root: {', '.join(debian)}\n")
    if python:
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             *python)  # fmt: skip


if __name__ == "__main__":
    install()
