"""An ssh client made of asyncssh: ``python asyncssh_client.py JSON``, see libraries.py."""

# ruff: noqa: T201  # a program: its standard output and error are what it is for

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import signal
import sys
import tty
from typing import Any

import asyncssh

MIB = 1024 * 1024


class Told(logging.Handler):
    """Tells on standard error what the tests count."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage().strip()
        if "Key exchange alg:" in text:
            print(f"rshell-test: agreed {text.split()[-1]}", file=sys.stderr)
        elif "Completed key exchange" in text:
            print("rshell-test: new keys", file=sys.stderr)


async def connected(want: dict[str, Any], user: str, tunnel: Any = None) -> Any:
    """Log in; the host key is pinned."""
    more = {"rekey_bytes": MIB} if want.get("rekey") else {}
    known = f"[127.0.0.1]:{want['port']} {want['host_key']}\n"
    return await asyncssh.connect(
        "127.0.0.1",
        want["port"],
        username=user,
        client_keys=[want["key"]],
        known_hosts=asyncssh.import_known_hosts(known),
        config=None,
        agent_path=None,
        tunnel=tunnel or (),
        **more,
    )


async def feed(writer: Any) -> None:
    """Send standard input, then its end."""
    loop = asyncio.get_running_loop()
    try:
        while data := await loop.run_in_executor(None, os.read, 0, 65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass  # the command has ended


async def drain(reader: Any, fd: int) -> None:
    """Write what comes to a descriptor."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(65536):
        while data:
            data = data[await loop.run_in_executor(None, os.write, fd, data) :]


async def joined(process: Any) -> int:
    """Join standard input, output and error to a process; return its exit status."""
    feeding = asyncio.ensure_future(feed(process.stdin))
    await asyncio.gather(drain(process.stdout, 1), drain(process.stderr, 2))
    await process.wait_closed()
    feeding.cancel()
    if process.exit_signal is not None:
        print(process.exit_signal[0], file=sys.stderr)
        return 255
    return int(process.exit_status)


async def run(connection: Any, line: str) -> int:
    return await joined(await connection.create_process(line, encoding=None))


async def shell(connection: Any) -> int:
    tty.setraw(0)
    process = await connection.create_process(
        term_type="xterm-256color", term_size=tuple(os.get_terminal_size()), encoding=None
    )
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGWINCH, lambda: process.change_terminal_size(*os.get_terminal_size())
    )
    return await joined(process)


async def forward(connection: Any, port: int) -> int:
    reader, writer = await connection.open_connection("127.0.0.1", port)
    feeding = asyncio.ensure_future(feed(writer))
    await drain(reader, 1)
    feeding.cancel()
    return 0


async def files(connection: Any, steps: list[list[str]]) -> int:
    async with connection.start_sftp_client() as client:
        for verb, *words in steps:
            match verb:
                case "put":
                    await client.put(*words)
                case "get":
                    await client.get(*words)
                case "rename":
                    await client.rename(*words)
                case "ls":
                    print(*await client.listdir(*words), sep="\n")
    return 0


async def several(connection: Any, lines: list[str]) -> int:
    done = await asyncio.gather(*(connection.run(line) for line in lines))
    print(json.dumps([(one.exit_status, one.stdout) for one in done]))
    return 0


async def serve(want: dict[str, Any]) -> None:
    connection = await connected(want, want["user"])
    status = await served(want, connection)
    connection.close()
    await connection.wait_closed()
    sys.stdout.flush()
    # A thread may still wait for standard input, and the loop would wait for it.
    os._exit(status & 255)


async def served(want: dict[str, Any], connection: Any) -> int:
    match want["do"]:
        case "run":
            return await run(connection, want["line"])
        case "shell":
            return await shell(connection)
        case "forward":
            return await forward(connection, want["target"])
        case "files":
            return await files(connection, want["steps"])
        case "several":
            return await several(connection, want["lines"])
        case "jump":
            inner = await connected(want["inner"], getpass.getuser(), connection)
            return await run(inner, want["line"])
        case _:
            raise ValueError(want["do"])


def main() -> None:
    want = json.loads(sys.argv[1])
    log = logging.getLogger("asyncssh")
    log.propagate = False
    if want.get("verbose"):
        asyncssh.set_debug_level(2)
        log.setLevel(logging.DEBUG)
        log.addHandler(Told())
    else:
        log.addHandler(logging.NullHandler())
    asyncio.run(serve(want))


if __name__ == "__main__":
    main()
