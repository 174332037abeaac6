"""An ssh client made of paramiko: ``python paramiko_client.py JSON``, see libraries.py."""

# ruff: noqa: T201  # a program: its standard output and error are what it is for

from __future__ import annotations

import base64
import getpass
import json
import logging
import os
import signal
import socket
import sys
import threading
import tty
from typing import Any

import paramiko

MIB = 1024 * 1024


class Told(logging.Handler):
    """Tells on standard error what the tests count."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("Kex: "):
            print(f"rshell-test: agreed {text.split()[1]}", file=sys.stderr)
        elif text == "Switch to new keys ...":
            print("rshell-test: new keys", file=sys.stderr)


def connected(want: dict[str, Any], sock: Any, user: str) -> paramiko.Transport:
    """Log in; the host key is pinned."""
    transport = paramiko.Transport(sock)
    if want.get("rekey"):
        transport.packetizer.REKEY_BYTES = MIB
    host = paramiko.Ed25519Key(data=base64.b64decode(want["host_key"].split()[1]))
    key = paramiko.Ed25519Key.from_private_key_file(want["key"])
    transport.connect(hostkey=host, username=user, pkey=key)
    return transport


def feed(channel: paramiko.Channel) -> None:
    """Send standard input, then its end."""
    try:
        while data := os.read(0, 65536):
            channel.sendall(data)
        channel.shutdown_write()
    except OSError:
        pass  # the command has ended


def drain(receive: Any, fd: int) -> None:
    """Write what comes to a descriptor."""
    while data := receive(65536):
        while data:
            data = data[os.write(fd, data) :]


def joined(channel: paramiko.Channel) -> int:
    """Join standard input, output and error to a channel; return the exit status."""
    threading.Thread(target=feed, args=(channel,), daemon=True).start()
    errors = threading.Thread(target=drain, args=(channel.recv_stderr, 2))
    errors.start()
    drain(channel.recv, 1)
    errors.join()
    # -1 is all that it says of a signal.
    return channel.recv_exit_status()


def run(transport: paramiko.Transport, line: str) -> int:
    channel = transport.open_session()
    channel.exec_command(line)
    return joined(channel)


def shell(transport: paramiko.Transport) -> int:
    channel = transport.open_session()
    columns, rows = os.get_terminal_size()
    channel.get_pty("xterm-256color", columns, rows)

    def resized(*_: object) -> None:
        columns, rows = os.get_terminal_size()
        # Not in the handler: paramiko takes locks.
        threading.Thread(target=channel.resize_pty, args=(columns, rows)).start()

    signal.signal(signal.SIGWINCH, resized)
    tty.setraw(0)
    channel.invoke_shell()
    return joined(channel)


def opened(transport: paramiko.Transport, port: int) -> paramiko.Channel:
    return transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 1))


def forward(transport: paramiko.Transport, port: int) -> int:
    channel = opened(transport, port)
    threading.Thread(target=feed, args=(channel,), daemon=True).start()
    drain(channel.recv, 1)
    return 0


def files(transport: paramiko.Transport, steps: list[list[str]]) -> int:
    client = paramiko.SFTPClient.from_transport(transport)
    assert client is not None
    for verb, *words in steps:
        match verb:
            case "put":
                client.put(*words)
            case "get":
                client.get(*words)
            case "rename":
                client.rename(*words)
            case "ls":
                print(*client.listdir(*words), sep="\n")
    client.close()
    return 0


def several(transport: paramiko.Transport, lines: list[str]) -> int:
    channels = []
    for line in lines:
        channel = transport.open_session()
        channel.exec_command(line)
        channels.append(channel)
    done = []
    for channel in channels:
        out = channel.makefile().read().decode()
        done.append((channel.recv_exit_status(), out))
    print(json.dumps(done))
    return 0


def main() -> int:
    want = json.loads(sys.argv[1])
    log = logging.getLogger("paramiko")
    log.propagate = False
    if want.get("verbose"):
        log.setLevel(logging.DEBUG)
        log.addHandler(Told())
    else:
        log.addHandler(logging.NullHandler())
    sock = socket.create_connection(("127.0.0.1", want["port"]))
    transport = connected(want, sock, want["user"])
    match want["do"]:
        case "run":
            status = run(transport, want["line"])
        case "shell":
            status = shell(transport)
        case "forward":
            status = forward(transport, want["target"])
        case "files":
            status = files(transport, want["steps"])
        case "several":
            status = several(transport, want["lines"])
        case "jump":
            inner = want["inner"]
            through = opened(transport, inner["port"])
            status = run(connected(inner, through, getpass.getuser()), want["line"])
        case _:
            raise ValueError(want["do"])
    transport.close()
    return status & 255


if __name__ == "__main__":
    sys.exit(main())
