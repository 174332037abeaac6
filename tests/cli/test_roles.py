"""``rshell roles`` and ``rshell operators`` against a scripted gateway."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.rshell_process import LIVE, CliCase

GRANT = {"select": "site=berlin", "handlers": ["exec", "tail"], "logins": ["web"]}
ROLE: dict[str, Any] = {
    "name": "ops",
    "grants": [GRANT, {"select": "db-*", "forward": ["localhost:5432"]}],
    "operators": 2,
    "changed_at": LIVE,
    "changed_by": "ann",
}


class RoleCommandTests(CliCase):
    async def test_set(self) -> None:
        """Options become one grant; lists may be repeated or joined by commas."""
        self.gateway.answers["roles.set"] = ROLE | {"unknown_handlers": ["acme"]}
        done = await self.rshell(
            *("roles", "set", "ops", "--select", "site=berlin", "--allow", "exec,tail"),
            *("--allow", "acme", "--as", "web,db", "--forward", "localhost:80", "--add"),
        )
        self.assertEqual((done.out, done.status), (b"role ops has 2 grants\n", 0))
        self.assertIn(b"no device has told of a handler called acme", done.err)
        (asked,) = self.gateway.requests
        grant = {
            "select": "site=berlin",
            "handlers": ["exec", "tail", "acme"],
            "logins": ["web", "db"],
            "forward": ["localhost:80"],
        }
        self.assertEqual(asked.handler, "gateway.roles.set")
        self.assertEqual(asked.request, {"name": "ops", "grants": [grant], "add": True})

    async def test_set_terms(self) -> None:
        """Limits are time spans, 0 and none are no limit; what is recorded is one of three."""
        self.gateway.answers["roles.set"] = ROLE
        words = ("--select", "*", "--allow", "shell")
        done = await self.rshell(
            *("roles", "set", "ops", *words, "--watch", "--idle-limit", "15m"),
            *("--time-limit", "8h", "--record", "input"),
        )
        self.assertEqual(done.status, 0)
        grant = {"handlers": ["shell"], "watch": True, "record": "input"}
        limits = {"idle_limit": 900, "time_limit": 28_800}
        self.assertEqual(self.gateway.requests[0].request["grants"], [grant | limits])
        await self.rshell(
            "roles", "set", "ops", *words, "--idle-limit", "0", "--time-limit", "none"
        )
        self.assertEqual(self.gateway.requests[1].request["grants"], [{"handlers": ["shell"]}])
        for more in (("--idle-limit", "soon"), ("--time-limit", "-1"), ("--record", "all")):
            done = await self.rshell("roles", "set", "ops", *words, *more)
            self.assertEqual(done.status, 2)
        self.assertEqual(len(self.gateway.requests), 2)

    async def test_terms_shown(self) -> None:
        """A role is shown with its terms, and a check with those that hold, and whose they are."""
        grants = [GRANT | {"idle_limit": 900, "record": "off"}, {"watch": True, "select": "db-*"}]
        self.gateway.answers["roles.list"] = [ROLE | {"grants": grants}]
        done = await self.rshell("roles", "show", "ops")
        self.assertIn(b"as web; idle-limit 15m; record off\n  2. db-*; watch\n", done.out)
        terms = {
            "idle_limit": 900,
            "recorded": "output",
            "idle_rule": "ops/1",
            "time_rule": "ops/1",
        }
        self.gateway.answers["roles.check"] = {
            "operator": "bob",
            "device": "pump-1",
            "handler": "shell",
            "allowed": True,
            "reason": "role ops/1",
            "terms": terms,
            "watch_rule": "ops/2",
        }
        done = await self.rshell("roles", "check", "bob", "pump-1", "shell")
        lines = done.out.decode().splitlines()
        self.assertEqual(
            lines,
            [
                "yes: role ops/1",
                "  idle limit: 15m (ops/1)",
                "  time limit: none (ops/1)",
                "  recorded, if it has a terminal: output (as the gateway is configured)",
                "  may watch others' sessions there (ops/2)",
            ],
        )

    async def test_set_everything(self) -> None:
        """--admin and --console need no selector; any other grant says on which devices."""
        self.gateway.answers["roles.set"] = ROLE
        done = await self.rshell("roles", "set", "boss", "--admin", "--console")
        self.assertEqual(done.status, 0)
        self.assertEqual(
            self.gateway.requests[0].request["grants"], [{"admin": True, "console": True}]
        )
        done = await self.rshell("roles", "set", "ops", "--allow", "exec")
        self.assertEqual(done.status, 2)
        self.assertIn(b"--select SELECTOR", done.err)

    async def test_listed(self) -> None:
        """Roles are listed a grant a line, and shown with who changed them."""
        admin = {"name": "admin", "built_in": True, "operators": 1}
        everything = {"admin": True, "console": True}
        self.gateway.answers["roles.list"] = [
            admin | {"grants": [everything]},
            ROLE,
            {"name": "id\x1b[2Jle"},
        ]
        done = await self.rshell("roles", "list")
        lines = done.out.decode().splitlines()
        self.assertEqual(lines[1].split(None, 3), ["admin", "1", "1", "everything"])
        self.assertIn("site=berlin; allow exec,tail; as web", lines[2])
        self.assertEqual(lines[3].split(None, 1), ["2", "db-*; forward localhost:5432"])
        self.assertTrue(lines[4].isprintable())
        self.assertIn("nothing", lines[4])
        self.gateway.answers["roles.list"] = [ROLE]
        done = await self.rshell("roles", "show", "ops")
        self.assertIn(b"ops: 2 operators, changed", done.out)
        done = await self.rshell("roles", "show", "ops", "--json")
        self.assertEqual(json.loads(done.out)["grants"][0]["logins"], ["web"])

    async def test_assigned(self) -> None:
        """Roles are given and taken away; the answer says which are left."""
        self.gateway.answers["roles.assign"] = {"name": "bob", "roles": ["ops", "tail"]}
        done = await self.rshell("roles", "assign", "bob", "ops", "tail")
        self.assertEqual(done.out, b"bob: ops, tail\n")
        self.gateway.answers["roles.assign"] = {"name": "bob", "roles": []}
        done = await self.rshell("roles", "unassign", "bob", "ops", "tail")
        self.assertEqual(done.out, b"bob: no roles\n")
        first, second = (asked.request for asked in self.gateway.requests)
        self.assertEqual((first["add"], first["remove"]), (["ops", "tail"], []))
        self.assertEqual((second["add"], second["remove"]), ([], ["ops", "tail"]))

    async def test_removed(self) -> None:
        """Removing says from whom it was taken."""
        self.gateway.answers["roles.remove"] = {"removed": "ops", "operators": ["bob", "eve"]}
        done = await self.rshell("roles", "remove", "ops", "--force")
        self.assertEqual(done.out, b"removed role ops, taken from bob, eve\n")
        self.assertEqual(self.gateway.requests[0].request, {"name": "ops", "force": True})

    async def test_check(self) -> None:
        """A check says yes or no, by status too, and what each grant lacks."""
        answer = {
            "operator": "bob",
            "device": "pump-1",
            "handler": "exec",
            "allowed": False,
            "reason": "role ops grants no exec on pump-1 as root",
            "grants": [{"rule": "ops/1", "grant": "on *", "missing": ["a", "b"]}],
        }
        self.gateway.answers["roles.check"] = answer
        words = ("roles", "check", "bob", "pump-1", "exec", "--as", "root")
        done = await self.rshell(*words)
        self.assertEqual(done.status, 1)
        lines = done.out.decode().splitlines()
        self.assertEqual(lines, [f"no: {answer['reason']}", "  ops/1 (on *): a; b"])
        self.assertEqual(self.gateway.requests[0].request["login"], "root")
        self.gateway.answers["roles.check"] = answer | {"allowed": True}
        done = await self.rshell(*words, "--json")
        self.assertEqual((done.status, json.loads(done.out)["allowed"]), (0, True))

    async def test_operators(self) -> None:
        """Operators are listed with state, roles and when they were last seen."""
        self.gateway.answers["operators"] = [
            {"name": "ann", "roles": ["admin"], "links": 2, "last_seen": LIVE},
            {"name": "bob", "roles": [], "status": "revoked"},
        ]
        done = await self.rshell("operators")
        _, ann, bob = done.out.decode().splitlines()
        self.assertEqual(ann.split(), ["ann", "connected", "admin", LIVE])
        self.assertEqual(bob.split(), ["bob", "revoked", "-", "-"])

    async def test_invite_with_roles(self) -> None:
        """An operator is invited with several roles; without any it is wrong usage."""
        self.gateway.answers["invite"] = {"join": "rsh1.abc", "expires_at": LIVE}
        done = await self.rshell("invite", "operator", "eve", "--role", "a", "--role", "b")
        self.assertEqual(done.status, 0)
        self.assertEqual(self.gateway.requests[0].request["roles"], ["a", "b"])
        self.assertEqual((await self.rshell("invite", "operator", "eve")).status, 2)
