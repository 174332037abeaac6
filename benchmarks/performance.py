"""The table of README: what of results.json is told there, and beside what.  No measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from benchmarks.contestants import asyncssh_reverse, bare_tls, nginx, openssh, stunnel
from benchmarks.notebook import OURS
from benchmarks.results import Figures, Found
from benchmarks.tables import number

__all__ = ["LINES", "Line", "Pick", "missing_picks", "performance_table"]

HEAD = ("what", "rshell", "goal", "`ssh -R`", "AsyncSSH, reverse", "limit")
SSH, JUMP, ASYNCSSH = openssh.WITHOUT, openssh.JUMP, asyncssh_reverse.NAME


@attrs.frozen
class Pick:
    """One figure.

    Attributes:
        section: where it is.
        what: the quantity.
        who: the contestant.
        at: about where on a curve; None for its only or last place.
        tag: says in the table which it is, if there are several.
    """

    section: str
    what: str
    who: str = OURS
    at: float | None = None
    tag: str = ""

    def find(self, found: Found) -> Figures | None:
        """Return it; None if it was not measured."""
        if self.at is None:
            return found.last(self.section, self.what, self.who)
        return found.near(self.section, self.what, self.at, self.who)


@attrs.frozen
class Line:
    """A line of the table.

    Attributes:
        text: for people, with the unit; ``{at}`` is the place on the curve.
        ours: what we have.
        ssh: what somebody has with OpenSSH alone.
        asyncssh: what somebody has with AsyncSSH.
        limit: what could be had.
    """

    text: str
    ours: Pick
    ssh: tuple[Pick, ...] = ()
    asyncssh: tuple[Pick, ...] = ()
    limit: tuple[Pick, ...] = ()


def _both(section: str, what: str, suffix: str = "") -> tuple[Pick, ...]:
    """Return OpenSSH from the gateway's host, and from elsewhere."""
    return (
        Pick(section, what, f"{SSH}{suffix}"),
        Pick(section, what, f"{JUMP}{suffix}", tag="-J"),
    )


def _beside(what: str) -> tuple[tuple[Pick, ...], ...]:
    """Return what others have in `going_live`: OpenSSH, AsyncSSH, the limits."""
    limits = (bare_tls.TWISTED, bare_tls.NGINX, bare_tls.STUNNEL)
    return (
        (Pick("going_live", what, SSH),),
        (Pick("going_live", what, ASYNCSSH),),
        tuple(Pick("going_live", what, who, tag=who.removeprefix("limit: ")) for who in limits),
    )


_MEMORY, _LIVE = "gateway's memory a device, idle", "gateway's processor time a device going live"
_RELAYS = ((nginx.NAME, "nginx relay"), (stunnel.NAME, "stunnel relay"))
_OPEN, _COLD = "`true` over an open connection, p50", "`true` from a cold start, p50"
_RETURN = "back after SIGKILL, all"

LINES = (
    Line("gateway's memory an idle live device, at {at}, KB",
         Pick("fleet_size", "gateway's memory an idle live device"), *_beside(_MEMORY)),
    Line("gateway's processor time a device going live, ms", Pick("going_live", _LIVE),
         *_beside(_LIVE)),
    Line("gateway's processor use, {at} devices idle, % of a core",
         Pick("fleet_size", "gateway's processor use, fleet idle", at=5_000)),
    Line("{at} devices back after SIGKILL of the gateway, s", Pick("comeback", _RETURN, at=2_000)),
    Line("{at} devices back after SIGKILL of the gateway, s", Pick("comeback", _RETURN, at=10_000)),
    Line("start of a gateway that knows {at} devices, s",
         Pick("startup", "until every door listens")),
    Line("`true` over an open connection, ms", Pick("command", _OPEN),
         (Pick("command", "`true` by a new process, connection open, p50", openssh.WITH,
               tag="ControlMaster"),),
         (Pick("command", _OPEN, ASYNCSSH),)),
    Line("`true` from a cold start, `rshell run`, ms", Pick("command", _COLD, f"{OURS} run")),
    Line("`true` from a cold start, `ssh`, ms", Pick("command", _COLD, f"{OURS}, ssh door"),
         _both("command", _COLD), (Pick("command", _COLD, f"{ASYNCSSH}, OpenSSH's client"),)),
    Line("keystroke echo, median, ms", Pick("echo", "echo, idle, p50"),
         _both("echo", "echo, idle, p50"), (Pick("echo", "echo, idle, p50", ASYNCSSH),)),
    Line("keystroke echo, 99 %, ms", Pick("echo", "echo, idle, p99"),
         _both("echo", "echo, idle, p99"), (Pick("echo", "echo, idle, p99", ASYNCSSH),)),
    Line("… beside a download, 99 %, ms", Pick("echo", "echo beside a transfer down, p99")),
    Line("… beside an upload, 99 %, ms", Pick("echo", "echo beside a transfer up, p99")),
    Line("… with {at} other devices live, 99 %, ms",
         Pick("echo_fleet", "echo among others, p99", at=5_000)),
    Line("… with {at} other devices live, 99 %, ms", Pick("echo_fleet", "echo among others, p99")),
    Line("… with as many, over ten minutes, 99 %, ms", Pick("soak", "all minutes: echo, p99")),
    Line("links lost in these ten minutes", Pick("soak", "all minutes: links lost")),
    Line("a byte through a forwarded port and back, ms",
         Pick("forward", "one byte and back, p50", f"{OURS} forward"),
         (Pick("forward", "one byte and back, p50", f"{JUMP}, ssh -L", tag="-J"),)),
    Line("a file to a device, `rshell cp`, MB/s", Pick("bulk", "file up", f"{OURS} cp"),
         _both("bulk", "file up", ", scp"), (Pick("bulk", "file up", f"{ASYNCSSH}, cat"),),
         tuple(Pick("bulk", "file up", who, tag=tag) for who, tag in _RELAYS)),
    Line("a file from a device, `rshell cp`, MB/s", Pick("bulk", "file down", f"{OURS} cp"),
         _both("bulk", "file down", ", scp"), (Pick("bulk", "file down", f"{ASYNCSSH}, cat"),)),
    Line("… up, by `scp` and the SSH door, MB/s",
         Pick("bulk", "file up", f"{OURS}, scp by ssh door")),
    Line("… down, by `scp` and the SSH door, MB/s",
         Pick("bulk", "file down", f"{OURS}, scp by ssh door")),
    Line("gateway, a file up, CPU-s/GB", Pick("bulk", "file up: gateway", f"{OURS} cp"),
         _both("bulk", "file up: gateway", ", scp"),
         (Pick("bulk", "file up: gateway", f"{ASYNCSSH}, cat"),),
         tuple(Pick("bulk", "file up: gateway", who, tag=tag) for who, tag in _RELAYS)),
    Line("gateway, a file down, CPU-s/GB", Pick("bulk", "file down: gateway", f"{OURS} cp"),
         _both("bulk", "file down: gateway", ", scp"),
         (Pick("bulk", "file down: gateway", f"{ASYNCSSH}, cat"),)),
    Line("one no-op on {at} devices, devices/s", Pick("many", "no-op on devices", at=1_000)),
    Line("one no-op on {at} devices, devices/s", Pick("many", "no-op on devices")),
    Line("`rshell devices` that knows {at}, ms",
         Pick("listing", "`rshell devices --json`, cold", at=10_000)),
    Line("a selector that finds one of {at}, ms",
         Pick("listing", "selector: one device by name, over an open link")),
    Line("agent at rest, RSS, MB", Pick("device", "memory (RSS) of the agent")),
    Line("keeper at rest, RSS, MB", Pick("device", "memory (RSS) of the keeper")),
    Line("all that runs on a device, RSS, MB", Pick("device", "memory (RSS) of all that runs"),
         (Pick("device", "memory (RSS) of all that runs", SSH),)),
    Line("an idle link, KB a day", Pick("device", "bytes a day on an idle link, headers included"),
         (Pick("device", "bytes a day on an idle link, headers included", SSH),)),
    Line("two audit rows of a session, ms of processor time",
         Pick("audit", "two audit rows of a session, alone: processor time")),
)  # fmt: skip


def performance_table(sections: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table as lines of Markdown: medians; what was not measured is not in it."""
    found = Found(sections)
    lines = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---:|---:|"]
    for line in LINES:
        mine = line.ours.find(found)
        if mine is None:
            continue
        text = line.text.replace("{at}", f"{mine.at or 0:,.0f}")
        goal = ""
        if mine.goal is not None:
            goal = f"{mine.goal}{'' if mine.goal.held_by(mine.median) else ' missed'}"
        others = [_cell(picks, found) for picks in (line.ssh, line.asyncssh, line.limit)]
        cells = [text, f"**{number(mine.median)}**", goal, *others]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def missing_picks(sections: Sequence[dict[str, Any]]) -> list[Pick]:
    """Return what the table wants and sections that ran do not have.

    A contestant that was left out is missing, and so is a quantity that was renamed.
    """
    found = Found(sections)
    ran = {one["name"] for one in sections}
    picks = [pick for line in LINES for pick in (line.ours, *line.ssh, *line.asyncssh, *line.limit)]
    return [pick for pick in picks if pick.section in ran and pick.find(found) is None]


def _cell(picks: Sequence[Pick], found: Found) -> str:
    """Return figures with what they are of."""
    told = []
    for pick in picks:
        figure = pick.find(found)
        if figure is not None:
            told.append(f"{number(figure.median)}{f' ({pick.tag})' if pick.tag else ''}")
    return ", ".join(told)
