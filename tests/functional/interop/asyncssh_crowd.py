"""Many asyncssh connections of one process: ``python asyncssh_crowd.py JSON``, see crowd.py."""

# ruff: noqa: T201  # a program: its standard output is what it is for

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections import Counter
from typing import Any

import asyncssh

#: Key exchanges under way at once: the gateway cuts the oldest off beyond its own limit.
AT_ONCE = 20
SECONDS = 120


def connection(want: dict[str, Any], user: str, **more: Any) -> Any:
    known = f"[127.0.0.1]:{want['port']} {want['host_key']}\n"
    return asyncssh.connect(
        "127.0.0.1",
        want["port"],
        username=user,
        known_hosts=asyncssh.import_known_hosts(known),
        config=None,
        agent_path=None,
        login_timeout=SECONDS,
        **more,
    )


async def echoes(process: Any, want: dict[str, Any], seed: int) -> list[float]:
    """Send and get back; return how long each took, in seconds."""
    took = []
    for turn in range(want["rounds"]):
        token = b"%d-%d " % (seed, turn)
        token = token * (1 + want["bytes"] // len(token))
        began = time.perf_counter()
        process.stdin.write(token)
        answer = await process.stdout.readexactly(len(token))
        took.append(time.perf_counter() - began)
        if answer != token:
            raise ValueError(f"{answer[:40]!r} for {token[:40]!r}")
        await asyncio.sleep(want["pause"])
    return took


async def crowd(want: dict[str, Any]) -> dict[str, Any]:
    """Let all in, then let all talk, then let all go."""
    doorstep = asyncio.Semaphore(AT_ONCE)

    async def enter(index: int) -> Any:
        async with doorstep:
            user = want["users"][index % len(want["users"])]
            made = await connection(want, user, client_keys=[want["key"]])
            return made, await made.create_process("cat", encoding=None)

    came = await asyncio.gather(*(enter(index) for index in range(want["sessions"])))
    talks = [echoes(process, want, index) for index, (_, process) in enumerate(came)]
    took = sorted(second for talk in await asyncio.gather(*talks) for second in talk)
    for made, process in came:
        process.stdin.write_eof()
        await process.wait_closed()
        made.close()
        await made.wait_closed()
    return {
        "echoes": len(took),
        "p50": took[len(took) // 2],
        "p95": took[len(took) * 95 // 100],
        "statuses": Counter(process.exit_status for _, process in came),
    }


async def guess(want: dict[str, Any]) -> dict[str, Any]:
    """Try keys that nobody knows, and passwords; return what came of each connection."""
    seen: Counter[str] = Counter()
    for _ in range(want["attempts"]):
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(want["keys"])]
        try:
            async with connection(want, "pump-1", client_keys=keys, password="letmein"):
                seen["entered"] += 1
        except asyncssh.PermissionDenied:
            seen["denied"] += 1
        except (asyncssh.Error, OSError) as error:
            told = "too many" if "oo many" in str(error) else "turned away"
            seen[told] += 1
    return dict(seen)


async def main() -> None:
    want = json.loads(sys.argv[1])
    logging.getLogger("asyncssh").addHandler(logging.NullHandler())
    logging.getLogger("asyncssh").propagate = False
    found = await (guess(want) if want["do"] == "guess" else crowd(want))
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
