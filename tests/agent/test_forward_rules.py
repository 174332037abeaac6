"""Unit tests of rshell_agent.keeper.targets: what a policy's rules let operators forward to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.keeper.addresses import parse_address
from rshell_agent.keeper.targets import (
    DEFAULT_FORWARD,
    BadRule,
    BadTarget,
    Rules,
    parse_rule,
    parse_target,
    tcp_target,
    unix_target,
)

#: What nobody may reach through a rule that does not name it, in every form we know of.
SPECIAL = (
    "169.254.169.254:80",
    "[::ffff:169.254.169.254]:80",
    "[::ffff:a9fe:a9fe]:80",
    "[::169.254.169.254]:80",
    "[64:ff9b::169.254.169.254]:80",
    "[2002:a9fe:a9fe::1]:80",
    "[fe80::1]:80",
    "[fe80::1%eth0]:80",
    "[fd00:ec2::254]:80",
    "100.100.100.200:80",
    "168.63.129.16:80",
    "0.0.0.0:80",
    "0.1.2.3:80",
    "[::]:80",
    "224.0.0.1:80",
    "[ff02::1]:80",
    "255.255.255.255:80",
    "[64:ff9b::127.0.0.1]:80",
    "[64:ff9b:1::169.254.169.254]:80",
    "[::ffff:0:169.254.169.254]:80",
    "[2001:0:4136:e378:8000:63bf:5601:5601]:80",
    "[2002:a9fe:a9fe::1]:80",
    "192.0.0.192:80",
    "[fd20:ce::254]:80",
)


def allowed(rules: list[str] | tuple[str, ...], target: str, address: str = "") -> bool:
    found = parse_address(address) if address else None
    return Rules.parse(rules).judge(parse_target(target), found).allowed


class TargetTests(SynchronousTestCase):
    def test_one_form(self) -> None:
        """However a host is written, policy sees one form of it."""
        for text, seen in (
            ("LocalHost:22", "localhost:22"),
            ("localhost.:22", "localhost:22"),
            ("DB.Example.:1", "db.example:1"),
            ("[::1]:22", "[::1]:22"),
            ("[0:0:0:0:0:0:0:1]:22", "[::1]:22"),
            ("[::ffff:127.0.0.1]:22", "127.0.0.1:22"),
            ("[2001:DB8::A]:1", "[2001:db8::a]:1"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
        ):
            self.assertEqual(seen, str(parse_target(text)), text)

    def test_other_numbers(self) -> None:
        """IPv4 addresses in forms that resolvers would read as numbers are no targets."""
        for host in (
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "127.0.0.256",
            "1.2.3.4.5",
            "0xA9FEA9FE",
            "2852039166.",
            "x.1",
        ):
            with self.assertRaises(BadTarget, msg=host):
                tcp_target(host, 80)

    def test_bad_targets(self) -> None:
        """What is no host, no port or no path is refused in one line."""
        for text in (
            "",
            ":80",
            "host",
            "host:",
            "host:http",
            "host:0",
            "host:65536",
            "host:-1",
            "host:999999",
            "::1:22",
            "[::1]",
            "[::1:22",
            "[127.0.0.1]:22",
            "a..b:1",
            ".a:1",
            "-a:1",
            "a-:1",
            "a b:1",
            "a\n:1",
            "a\0:1",
            "a/b:1",
            "a%b:1",
            "127.0.0.1%lo:1",
            "[fe80::1%]:1",
            "[::1%lo]:1",
            "[2001:db8::1%eth0]:1",
            "[fe80::1%a b]:1",
            "x" * 64 + ":1",
            ".".join(["x" * 60] * 5) + ":1",
            "b\u00fccher.example:1",
            "\uff11\uff12\uff17.0.0.1:1",
            "\u24c1ocalhost:1",
            "*:1",
            "unix:",
            "unix:/",
            "unix:run/x",
            "unix:/run/../x",
            "unix:/run/./x",
            "unix:/run//x",
            "unix://run/x",
            "unix:/run/x/",
            "unix:/run/\0",
            "unix:/run/\nx",
            "unix:/" + "x" * 107,
        ):
            with self.assertRaises(BadTarget, msg=text) as caught:
                parse_target(text)
            self.assertNotIn("\n", str(caught.exception))

    def test_longest_path(self) -> None:
        """A path may be as long as a socket's can be, counted in bytes."""
        self.assertEqual(107, len(unix_target("/" + "x" * 106).path))
        with self.assertRaises(BadTarget):
            unix_target("/" + "\u00fc" * 54)


class RuleTests(SynchronousTestCase):
    def test_bad_rules(self) -> None:
        """What is no rule is named as none."""
        for text in (
            "",
            "localhost",
            "localhost:",
            ":80",
            "*",
            "*:",
            "*:0",
            "*:65536",
            "*:20-10",
            "*:1-",
            "*:a",
            "*:1,2",
            "::1:22",
            "::1/128:22",
            "10.0.0.1/8:443",
            "10.0.0.0/33:1",
            "10.0.0.0/:1",
            "10.0.0.0/-1:1",
            "10.0/8:1",
            "010.0.0.1:1",
            "[2001:db8::/129]:1",
            "[10.0.0.0/8]:1",
            "[fe80::1%eth0]:1",
            "*.10.0.0.1:1",
            "a*.example:80",
            "*.*.example:80",
            "ex*mple:80",
            "b\u00fccher:1",
            "unix:",
            "unix:x",
            "unix:/run/*/x.sock",
            "unix:/run/../x",
        ):
            with self.assertRaises(BadRule, msg=text) as caught:
                parse_rule(text)
            self.assertNotIn("\n", str(caught.exception))

    def test_default(self) -> None:
        """By default a device forwards to itself, and nowhere else."""
        for target in ("localhost:22", "127.0.0.1:1", "127.9.9.9:65535", "[::1]:80"):
            self.assertTrue(allowed(DEFAULT_FORWARD, target), target)
        for target in ("10.0.0.1:22", "example.com:80", "unix:/run/x", "[2001:db8::1]:1"):
            self.assertFalse(allowed(DEFAULT_FORWARD, target), target)

    def test_ports(self) -> None:
        """A port, a range with both ends, or all of them."""
        self.assertTrue(allowed(["localhost:22"], "localhost:22"))
        self.assertFalse(allowed(["localhost:22"], "localhost:23"))
        for port, inside in ((999, False), (1000, True), (2000, True), (2001, False)):
            self.assertEqual(inside, allowed(["localhost:1000-2000"], f"localhost:{port}"))

    def test_networks(self) -> None:
        """A network holds its addresses, those that a name resolves to, and none beside."""
        rules = ["10.0.0.0/8:443", "[2001:db8::/32]:443", "192.0.2.7:80"]
        self.assertTrue(allowed(rules, "10.255.0.1:443"))
        self.assertTrue(allowed(rules, "[2001:db8:ffff::1]:443"))
        self.assertTrue(allowed(rules, "[::ffff:10.0.0.1]:443"))
        self.assertTrue(allowed(rules, "web.example:443", "10.1.1.1"))
        self.assertTrue(allowed(rules, "192.0.2.7:80"))
        self.assertFalse(allowed(rules, "11.0.0.1:443"))
        self.assertFalse(allowed(rules, "[2001:db9::1]:443"))
        self.assertFalse(allowed(rules, "web.example:443", "11.1.1.1"))
        self.assertFalse(allowed(rules, "192.0.2.8:80"))

    def test_names(self) -> None:
        """A name is matched whole, a starred one by what is below it, and never by its address."""
        rules = ["db.example:5432", "*.lan.example:80"]
        self.assertTrue(allowed(rules, "DB.example.:5432", "192.0.2.1"))
        self.assertFalse(allowed(rules, "x.db.example:5432", "192.0.2.1"))
        self.assertTrue(allowed(rules, "a.lan.example:80", "192.0.2.1"))
        self.assertTrue(allowed(rules, "a.b.lan.example:80", "192.0.2.1"))
        self.assertFalse(allowed(rules, "lan.example:80", "192.0.2.1"))
        self.assertFalse(allowed(rules, "evillan.example:80", "192.0.2.1"))
        self.assertFalse(allowed(rules, "192.0.2.1:80"))

    def test_names_lead_nowhere_special(self) -> None:
        """Who answers for an allowed name cannot lead into the device, or to what is special."""
        for rules in (["*.example:80"], ["a.example:80"]):
            for address in ("127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "::", "ff02::1"):
                self.assertFalse(allowed(rules, "a.example:80", address), address)
        self.assertTrue(allowed(["127.0.0.0/8:80"], "a.example:80", "127.0.0.1"))

    def test_special(self) -> None:
        """No star and no wide network includes link-local, metadata, multicast, unspecified."""
        wide = ["*:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*", "128.0.0.0/1:*"]
        for target in SPECIAL:
            self.assertFalse(allowed(wide, target), target)
        self.assertTrue(allowed(wide, "192.0.2.1:80"))
        self.assertTrue(allowed(wide, "127.0.0.1:80"))

    def test_special_named(self) -> None:
        """What a rule names, or a part of that very range, is allowed."""
        self.assertTrue(allowed(["169.254.169.254:80"], "169.254.169.254:80"))
        self.assertTrue(allowed(["169.254.0.0/16:80"], "[::ffff:169.254.1.1]:80"))
        self.assertTrue(allowed(["[fe80::/10]:22"], "[fe80::1%eth0]:22"))
        self.assertTrue(allowed(["[64:ff9b::a9fe:a9fe]:80"], "[64:ff9b::169.254.169.254]:80"))
        self.assertFalse(allowed(["169.254.169.254:80"], "169.254.169.254:81"))
        self.assertFalse(allowed(["169.254.169.254:80"], "[64:ff9b::169.254.169.254]:80"))

    def test_sockets(self) -> None:
        """A socket is named by its path, or by a pattern within one folder."""
        rules = ["unix:/run/x.sock", "unix:/run/app/*.sock"]
        self.assertTrue(allowed(rules, "unix:/run/x.sock"))
        self.assertTrue(allowed(rules, "unix:/run/app/a.sock"))
        self.assertFalse(allowed(rules, "unix:/run/app/sub/a.sock"))
        self.assertFalse(allowed(rules, "unix:/run/app/a"))
        self.assertFalse(allowed(rules, "unix:/run/y.sock"))
        self.assertFalse(allowed(["*:*"], "unix:/run/x.sock"))

    def test_reason(self) -> None:
        """A refusal says what is allowed, or why a place is special."""
        text = Rules.parse(["localhost:22"]).judge(parse_target("db:1")).reason
        self.assertIn("does not allow forwarding to db:1 (forward: localhost:22)", text)
        text = Rules.parse(["*:*"]).judge(parse_target("169.254.169.254:80")).reason
        self.assertIn("metadata", text)
        text = Rules.parse(["*.x:*"]).judge(parse_target("a.x:1"), parse_address("::1")).reason
        self.assertIn("the device itself", text)
        self.assertIn("nothing", Rules.parse([]).judge(parse_target("db:1")).reason)

    def test_not_looked_up(self) -> None:
        """A name that no rule could allow need not be resolved."""
        rules = Rules.parse(["localhost:*", "10.0.0.0/8:443"])
        self.assertFalse(rules.concerning(tcp_target("a.example", 80)))
        self.assertTrue(rules.concerning(tcp_target("a.example", 443)))

    def test_listening(self) -> None:
        """Where a device may listen is judged by the address it binds."""
        rules = Rules.parse(["localhost:8000-8010", "192.0.2.1:*", "unix:/run/x"], "forward_back")

        def judged(host: str, port: int) -> bool:
            return rules.judge_listening(tcp_target(host, port, listen=True)).allowed

        self.assertTrue(judged("localhost", 8000))
        self.assertTrue(judged("localhost", 0))
        self.assertTrue(judged("127.0.0.1", 8010))
        self.assertTrue(judged("192.0.2.1", 1))
        self.assertFalse(judged("localhost", 8011))
        self.assertFalse(judged("*", 8000))
        self.assertFalse(judged("0.0.0.0", 8000))
        self.assertFalse(judged("some.name", 8000))
        self.assertTrue(rules.judge_listening(unix_target("/run/x")).allowed)
        self.assertFalse(rules.judge_listening(unix_target("/run/y")).allowed)
        everything = Rules.parse(["*:80"])
        self.assertTrue(everything.judge_listening(tcp_target("*", 80, listen=True)).allowed)

    @given(st.text(max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is a target, a rule, or refused: nothing else comes of it."""
        for parse, refusal in ((parse_target, BadTarget), (parse_rule, BadRule)):
            try:
                parse(text)
            except refusal as error:
                self.assertTrue(str(error).isprintable())

    @given(st.integers(0, 2**32 - 1))
    def test_same_in_ipv6(self, number: int) -> None:
        """An IPv4 address in IPv6's clothes is judged as itself."""
        plain = ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
        rules = ["*:*", "10.0.0.0/8:5", "127.0.0.0/8:1"]
        self.assertEqual(allowed(rules, f"{plain}:5"), allowed(rules, f"[::ffff:{plain}]:5"), plain)
