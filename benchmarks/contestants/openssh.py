"""`ssh -R`: each device has sshd and keeps an ssh to the gateway that forwards a port back to it.

An operator on the gateway's host dials that port.  With ControlMaster one connection is kept and
each command is a channel of it.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from benchmarks.proc import listening
from tests.functional.processes import die_with_us, end, until

__all__ = ["JUMP", "WITH", "WITHOUT", "OpenSsh", "free_port", "missing"]

WITHOUT, WITH, JUMP = "ssh -R", "ssh -R, ControlMaster", "ssh -R, ssh -J"


def _sshd() -> str | None:
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing() -> str:
    """Return why it cannot take part, or an empty string."""
    absent = [name for name in ("ssh", "ssh-keygen", "scp") if shutil.which(name) is None]
    if _sshd() is None:
        absent.append("sshd")
    return f"not installed: {', '.join(absent)}" if absent else ""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class OpenSsh:
    """A gateway's sshd, a device's sshd, and the connections between them.

    Args:
        base: gets a directory of its own.
    """

    def __init__(self, base: Path) -> None:
        self.base = base / "openssh"
        self.base.mkdir(mode=0o700)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._key("id")
        self._key("host")
        shutil.copy(self.base / "id.pub", self.base / "authorized")
        self._gateway_port, self._device_port = free_port(), free_port()
        self.gateway = self._start_sshd("gateway", self._gateway_port)
        self.device = self._start_sshd("device", self._device_port)
        self.tunnels: list[tuple[subprocess.Popen[bytes], int]] = []
        self._master: subprocess.Popen[bytes] | None = None

    def _key(self, name: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / name)],
            check=True,
        )

    def _start_sshd(self, name: str, port: int) -> subprocess.Popen[bytes]:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its own, for privilege separation
        config = self.base / f"{name}.conf"
        lines = {
            "ListenAddress": f"127.0.0.1:{port}",
            "HostKey": self.base / "host",
            "AuthorizedKeysFile": self.base / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "MaxStartups": "1000",
            "Subsystem": "sftp internal-sftp",
        }
        config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        sshd = _sshd()
        assert sshd is not None
        process = self._spawn(name, [sshd, "-D", "-e", "-f", str(config)])
        until(lambda: listening(port), f"{name}'s sshd listens", 20)
        return process

    def _spawn(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.base / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_us,  # noqa: PLW1509  # it calls prctl and nothing else
            )
        self._processes.append(process)
        return process

    def _options(self, port: int) -> list[str]:
        words = {
            "Port": port,
            "IdentityFile": self.base / "id",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "no",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
        }
        return ["-F", "/dev/null", *(f"-o{name}={value}" for name, value in words.items())]

    def add_tunnel(self) -> subprocess.Popen[bytes]:
        """Start a device's ssh to the gateway; return it when its port is forwarded."""
        port = free_port()
        back = f"127.0.0.1:{port}:127.0.0.1:{self._device_port}"
        words = ["ssh", *self._options(self._gateway_port), "-oExitOnForwardFailure=yes",
                 "-oServerAliveInterval=25", "-N", "-R", back, self._login()]  # fmt: skip
        process = self._spawn("tunnel", words)
        until(lambda: listening(port), "the tunnel's port listens", 20)
        self.tunnels.append((process, port))
        return process

    def start_master(self) -> None:
        """Open the connection that ControlMaster keeps."""
        options = self._options(self.tunnels[0][1])
        words = ["ssh", *options, "-M", "-S", str(self.base / "cm"), "-N", self._login()]
        self._master = self._spawn("master", words)
        until((self.base / "cm").exists, "ControlMaster's socket", 20)

    @staticmethod
    def _login() -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    def _jump(self) -> str:
        """Return the option of an operator who is not on the gateway's host.

        What ``-J`` stands for (ssh(1)), which has no place for the jump's own options.
        """
        jump = ["ssh", *self._options(self._gateway_port), "-W", "[%h]:%p", self._login()]
        return f"-oProxyCommand={shlex.join(jump)}"

    def command(
        self, *words: str, master: bool = False, terminal: bool = False, jump: bool = False
    ) -> list[str]:
        """Return the command line that runs words on the device.

        Args:
            words: of the command.
            master: over the connection that ControlMaster keeps.
            terminal: with a terminal of its own.
            jump: through the gateway's sshd; else from the gateway's host.
        """
        options = ["-S", str(self.base / "cm")] if master else []
        options += ["-tt"] if terminal else []
        options += [self._jump()] if jump else []
        return ["ssh", *options, *self._options(self.tunnels[0][1]), self._login(), *words]

    def forward_command(self, port: int, target: int) -> list[str]:
        """Return the command line that forwards a port to one of the device, by way of both."""
        options = self._options(self.tunnels[0][1])
        path = f"127.0.0.1:{port}:127.0.0.1:{target}"
        return ["ssh", "-N", self._jump(), *options, "-L", path, self._login()]

    def copy_command(
        self, program: str, source: str, target: str, *, jump: bool = False
    ) -> list[str]:
        """Return an scp command line; ``DEVICE:`` before a path means the device."""
        options = [*([self._jump()] if jump else []), *self._options(self.tunnels[0][1])]
        place = f"{self._login()}:"
        paths = [path.replace("DEVICE:", place) for path in (source, target)]
        return [program, "-q", *options, *paths]

    def gateway_pids(self) -> list[int]:
        """Return the gateway's side: sshd, whose sessions are its children."""
        return [self.gateway.pid]

    def device_pids(self) -> list[int]:
        """Return one device's side: sshd and the ssh that keeps the port forwarded."""
        return [self.device.pid, self.tunnels[0][0].pid]

    def close(self) -> None:
        """End all."""
        for process in reversed(self._processes):
            end(process, 5)
        self._processes.clear()

    def remove(self) -> None:
        """End all, and remove its directory: another one may be made in its place."""
        self.close()
        shutil.rmtree(self.base, ignore_errors=True)
