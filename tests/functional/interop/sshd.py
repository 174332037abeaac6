"""A device's own sshd, as what an operator reaches end to end through the door."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

from tests.functional.processes import require

__all__ = ["Sshd"]


class Sshd:
    """OpenSSH's server on a loopback port of its own, one process for each connection.

    Args:
        folder: For its keys: ``host``, and ``user``, which it lets in as whoever runs this.
    """

    def __init__(self, folder: Path) -> None:
        self._sshd = require("sshd")
        folder.mkdir()
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        (folder / "keys").write_bytes((folder / "user.pub").read_bytes())
        self._config = folder / "config"
        self._config.write_text(
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/keys\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd gives up its rights
        self.key = folder / "user"
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                command = [self._sshd, "-i", "-e", "-f", str(self._config)]
                subprocess.Popen(
                    command, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL
                )

    def close(self) -> None:
        """Listen no more."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
