"""A reverse-dialling gateway as one would write it with AsyncSSH in an afternoon.

``python -m benchmarks.contestants.asyncssh_roles gateway|device|operator …``: devices dial the
gateway and are SSH servers on that connection; operators reach the first device through an SSH
server of the gateway.  No fleet, no audit, no resume: it is here for its speed only.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asyncssh

__all__ = ["main"]

DEVICES: list[Any] = []


async def _relay(process: Any) -> None:
    """Run an operator's command on the device, and join the two."""
    there = await DEVICES[0].create_process(
        process.command, term_type=process.get_terminal_type(), encoding=None
    )
    up = asyncio.create_task(_pump(process.stdin, there.stdin, end=True))
    await _pump(there.stdout, process.stdout)
    up.cancel()
    process.exit((await there.wait()).exit_status or 0)


async def _pump(source: Any, target: Any, *, end: bool = False) -> None:
    """Pass all on.  By hand: exit() does not wait for what a redirection still has."""
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    if end:
        target.write_eof()


async def gateway(base: str, devices: str, operators: str) -> None:
    """Listen for devices and operators."""
    key = f"{base}/id"

    async def came(connection: Any) -> None:
        DEVICES.append(connection)

    await asyncssh.listen_reverse(
        "127.0.0.1", int(devices), acceptor=came, client_keys=[key], known_hosts=None,
        username="device", keepalive_interval=25,
    )  # fmt: skip
    await asyncssh.listen(
        "127.0.0.1", int(operators), server_host_keys=[f"{base}/host"],
        authorized_client_keys=f"{base}/id.pub", process_factory=_relay, encoding=None,
    )  # fmt: skip
    await asyncio.Event().wait()


async def _serve(process: Any) -> None:
    """Run a command on the device, on a pseudo-terminal if one is asked for."""
    words = ["sh", "-c", process.command]
    if process.get_terminal_type():
        ours, theirs = pty.openpty()
        child = await asyncio.create_subprocess_exec(
            *words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        await process.redirect(stdin=os.dup(ours), stdout=ours)
    else:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        up = asyncio.create_task(_pump(process.stdin, child.stdin, end=True))
        await _pump(child.stdout, process.stdout)
        up.cancel()
    process.exit(await child.wait())


async def device(base: str, port: str, count: str) -> None:
    """Be ``count`` devices."""
    for _ in range(int(count)):
        await asyncssh.connect_reverse(
            "127.0.0.1", int(port), server_host_keys=[f"{base}/host"], encoding=None,
            authorized_client_keys=f"{base}/id.pub", process_factory=_serve,
        )  # fmt: skip
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def operator(base: str, port: str) -> None:
    """Run ``true`` as often as each line of the input says; answer with milliseconds."""
    connection = await asyncssh.connect(
        "127.0.0.1", int(port), client_keys=[f"{base}/id"], known_hosts=None, username="operator"
    )
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        taken = []
        for _ in range(int(line)):
            began = time.perf_counter()
            await connection.run("true", check=True)
            taken.append((time.perf_counter() - began) * 1000)
        sys.stdout.write(json.dumps({"ms": taken}) + "\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Play a role."""
    roles: dict[str, Callable[..., Coroutine[Any, Any, None]]]
    roles = {"gateway": gateway, "device": device, "operator": operator}
    asyncio.run(roles[arguments[0]](*arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
