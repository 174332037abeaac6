"""stunnel as a relay: TLS 1.3 from the operator, TLS 1.3 to the device, nothing between.

One stunnel either takes TLS or makes it, so two services of one process are joined by a plain
connection on loopback.  See `benchmarks.contestants.nginx`, whose ends it shares.
"""

from __future__ import annotations

import os
import shutil

from benchmarks.contestants.nginx import Nginx
from benchmarks.contestants.openssh import free_port

__all__ = ["HEAD", "NAME", "Stunnel", "missing", "program"]

NAME = "limit: stunnel relay"
#: The first lines of a configuration: in the foreground, nothing logged but failures.
HEAD = """\
foreground = yes
debug = err
syslog = no
pid =
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersionMin = TLSv1.3
"""


def _find() -> str | None:
    return shutil.which("stunnel", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def program() -> str:
    """Return where stunnel is.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = _find()
    if found is None:
        raise FileNotFoundError("stunnel is not installed")
    return found


def missing() -> str:
    """Return why it cannot take part, or an empty string."""
    absent = [name for name in ("stunnel", "openssl") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


class Stunnel(Nginx):
    """A relay, and behind it a sink that throws away what it gets."""

    name = "stunnel"

    def _words(self) -> list[str]:
        return [program(), str(self.base / "conf")]

    def _config(self) -> str:
        between = free_port()
        return f"""{HEAD}
[in]
accept = 127.0.0.1:{self._port}
connect = 127.0.0.1:{between}
cert = {self.base}/cert
key = {self.base}/key
[out]
client = yes
accept = 127.0.0.1:{between}
connect = 127.0.0.1:{self._target}
"""
