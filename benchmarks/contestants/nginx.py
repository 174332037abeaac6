"""nginx's stream relay: TLS 1.3 from the operator, TLS 1.3 to the device, nothing between.

What bulk through a gateway could reach on this machine if it were nothing but a relay in C.  It
knows no device, writes no audit and has no streams.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.contestants.openssh import free_port
from tests.functional.processes import die_with_us, end, until

__all__ = ["NAME", "Nginx", "missing", "program"]

NAME = "limit: nginx relay"
_MODULES = (
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
)


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def program() -> str:
    """Return where nginx is.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = _find("nginx")
    if found is None:
        raise FileNotFoundError("nginx is not installed")
    return found


def missing() -> str:
    """Return why it cannot take part, or an empty string."""
    absent = [name for name in ("nginx", "openssl") if _find(name) is None]
    if not absent and not any(Path(path).exists() for path in _MODULES):
        absent.append("nginx's stream module")
    return f"not installed: {', '.join(absent)}" if absent else ""


class Nginx:
    """A relay, and an `openssl s_server` behind it that throws away what it gets.

    Args:
        base: gets a directory of its own.
    """

    def __init__(self, base: Path) -> None:
        self.base = base / "nginx"
        self.base.mkdir(mode=0o755)
        self._port, self._target = free_port(), free_port()
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=relay", "-keyout", str(self.base / "key"),
             "-out", str(self.base / "cert")],
            check=True, capture_output=True,
        )  # fmt: skip
        (self.base / "conf").write_text(self._config())
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = (self.base / "log").open("ab")
        self.sink = self._spawn(
            ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{self._target}", "-cert",
             str(self.base / "cert"), "-key", str(self.base / "key"), "-tls1_3"]
        )  # fmt: skip
        self.relay = self._spawn([program(), "-p", str(self.base), "-c", str(self.base / "conf")])
        until((self.base / "pid").exists, self._told, 20)

    def _told(self) -> str:
        return (self.base / "log").read_text(errors="replace")[-1000:]

    def _config(self) -> str:
        module = next(path for path in _MODULES if Path(path).exists())
        user = "user root;" if os.geteuid() == 0 else ""
        return f"""
load_module {module};
{user}
daemon off; master_process off; pid {self.base}/pid; error_log stderr;
events {{ worker_connections 4096; }}
stream {{
  server {{
    listen 127.0.0.1:{self._port} ssl;
    ssl_certificate {self.base}/cert; ssl_certificate_key {self.base}/key;
    ssl_protocols TLSv1.3;
    proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_buffer_size 64k;
    proxy_pass 127.0.0.1:{self._target};
  }}
}}
"""

    def _spawn(self, words: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,  # s_server ends with its input
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )
        self._processes.append(process)
        return process

    def send(self, size_bytes: int) -> None:
        """Send zeros through the relay; return when they are on their way or beyond."""
        line = (
            f"head -c {size_bytes} /dev/zero | openssl s_client -quiet -no_ign_eof "
            f"-connect 127.0.0.1:{self._port} -tls1_3 >/dev/null 2>&1"
        )
        # s_client with -no_ign_eof ends with its input, and with the peer's close_notify
        subprocess.run(["sh", "-c", line], check=False, timeout=600)

    def gateway_pids(self) -> list[int]:
        """Return the relay."""
        return [self.relay.pid]

    def close(self) -> None:
        """End all."""
        for process in reversed(self._processes):
            end(process, 5)
            if process.stdin is not None:
                process.stdin.close()
        self._log.close()
