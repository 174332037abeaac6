"""nginx's stream relay: TLS 1.3 from the operator, TLS 1.3 to the device, nothing between.

What bulk through a gateway could reach on this machine if it were nothing but a relay in C.  It
knows no device, writes no audit and has no streams.  Sender and sink are loops over Python's `ssl`
with large buffers, so nearly all of their time is OpenSSL's.  As a program this is the sink:
``python -m benchmarks.contestants.nginx PORT DIR``.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path

from benchmarks.contestants.openssh import free_port
from benchmarks.machine import ROOT
from benchmarks.proc import listening
from tests.functional.processes import die_with_us, end, environment, until

__all__ = ["NAME", "Nginx", "missing", "program"]

NAME = "limit: nginx relay"
CHUNK = 256 * 1024
LIMIT_SECONDS = 600.0
#: What a sender says first: how many bytes follow.
_SIZE = struct.Struct(">Q")
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
    """A relay, and behind it a sink that throws away what it gets.

    Args:
        base: gets a directory of its own.
    """

    name = "nginx"

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
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
            [sys.executable, "-P", "-m", __name__, str(self._target), str(self.base)]
        )
        until(lambda: listening(self._target), self._told, 20)
        self.relay = self._spawn(self._words())
        until(lambda: listening(self._port), self._told, 20)

    def _told(self) -> str:
        return (self.base / "log").read_text(errors="replace")[-1000:]

    def _words(self) -> list[str]:
        return [program(), "-p", str(self.base), "-c", str(self.base / "conf")]

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
        environ = environment(self.base)
        environ["PYTHONPATH"] += os.pathsep + str(ROOT)
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environ,
            preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
        )
        self._processes.append(process)
        return process

    def send(self, size_bytes: int) -> None:
        """Send zeros through the relay; return when all have arrived.

        Raises:
            OSError: They have not.
        """
        context = ssl.create_default_context(cafile=str(self.base / "cert"))
        context.check_hostname = False  # it is our own certificate, of this run
        chunk = bytes(CHUNK)
        with (
            socket.create_connection(("127.0.0.1", self._port)) as plain,
            context.wrap_socket(plain) as sock,
        ):
            sock.settimeout(LIMIT_SECONDS)
            sock.sendall(_SIZE.pack(size_bytes))
            left = size_bytes
            while left:
                sock.sendall(chunk[: min(left, CHUNK)])
                left -= min(left, CHUNK)
            if sock.recv(1) != b".":
                raise OSError("the relay lost bytes")

    def gateway_pids(self) -> list[int]:
        """Return the relay."""
        return [self.relay.pid]

    def close(self) -> None:
        """End all."""
        for process in reversed(self._processes):
            end(process, 5)
        self._log.close()


def main(arguments: list[str]) -> None:
    """Be the sink: take connections one after the other, say when all of one has come."""
    port, base = int(arguments[0]), Path(arguments[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(base / "cert", base / "key")
    buffer = memoryview(bytearray(CHUNK))
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as sock:
                (left,) = _SIZE.unpack(sock.recv(_SIZE.size))
                while left and (got := sock.recv_into(buffer)):
                    left -= got
                if not left:
                    sock.sendall(b".")


if __name__ == "__main__":
    main(sys.argv[1:])
