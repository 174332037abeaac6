"""Roles' forward targets: one language, one meaning, at the gateway and on the device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rshell.access import forward_rules
from rshell.access.forward_rules import ANY, BadRule, Place, parse_rule, place_of
from rshell_agent.keeper import addresses
from rshell_agent.keeper import targets as device

#: rule: what it grants of PLACES; the golden list that both ends are held to.
GOLDEN = {
    "localhost:*": {"localhost:22", "a.localhost:80", "127.0.0.1:80", "127.9.9.9:1", "[::1]:80"},
    "localhost:80-90": {"a.localhost:80", "127.0.0.1:80", "[::1]:80"},
    "10.0.0.0/8:443": {"10.1.2.3:443", "[::ffff:10.1.2.3]:443"},
    "10.1.2.3:*": {"10.1.2.3:443", "10.1.2.3:80", "[::ffff:10.1.2.3]:443"},
    "[2001:db8::/32]:80": {"[2001:db8::7]:80"},
    "db.example:5432": {"db.example:5432", "DB.Example.:5432"},
    "*.example:*": {"db.example:5432", "DB.Example.:5432", "a.b.example:80"},
    "*:443": {"10.1.2.3:443", "[::ffff:10.1.2.3]:443"},
    "0.0.0.0/0:80": {"a.localhost:80", "127.0.0.1:80", "10.1.2.3:80"},
    "169.254.169.254:80": {"169.254.169.254:80", "[::ffff:169.254.169.254]:80"},
    "169.254.0.0/16:80": {"169.254.169.254:80", "[::ffff:169.254.169.254]:80"},
    "[64:ff9b::a9fe:a9fe]:80": {"[64:ff9b::169.254.169.254]:80"},
    "[fe80::/10]:80": {"[fe80::1]:80", "[fe80::1%eth0]:80"},
    "unix:/run/x.sock": {"unix:/run/x.sock"},
    "unix:/run/*.sock": {"unix:/run/x.sock", "unix:/run/y.sock"},
}
PLACES = [
    *sorted(set().union(*GOLDEN.values())),
    "0.0.0.0:80",
    "100.100.100.200:80",
    "168.63.129.16:80",
    "224.0.0.1:80",
    "255.255.255.255:80",
    "[::]:80",
    "[2002:a9fe:a9fe::1]:80",
    "[64:ff9b::127.0.0.1]:80",
    "[::169.254.169.254]:80",
    "[fd00:ec2::254]:80",
    "[ff02::1]:80",
    "example:80",
    "notexample:80",
    "unix:/run/sub/x.sock",
]


def place(text: str) -> Place:
    """Return a place as a request names it."""
    if text.startswith("unix:"):
        return place_of(None, None, text[5:])
    host, _, port = text.rpartition(":")
    return place_of(host, int(port), None)


def on_device(rule: str, text: str) -> bool:
    """Return what the device says of it, where it needs no resolver for that."""
    target = device.parse_target(text)
    if device.parse_rule(rule).network is not None and not (target.address or target.is_localhost):
        return False
    return device.Rules.parse([rule]).judge(target).allowed


class AgreementTests(SynchronousTestCase):
    def test_golden(self) -> None:
        """Both ends grant just what the golden list says."""
        for rule, granted in GOLDEN.items():
            for text in PLACES:
                said = parse_rule(rule).admits(place(text)), on_device(rule, text)
                self.assertEqual(said, (text in granted, text in granted), (rule, text))

    def test_wide(self) -> None:
        """No star and no wide network includes what must be named, at either end."""
        for rule in ("*:*", "0.0.0.0/0:*", "[::/0]:*", "128.0.0.0/1:*", "localhost:*"):
            for text in PLACES:
                self.assertEqual(parse_rule(rule).admits(place(text)), on_device(rule, text), text)

    def test_listening(self) -> None:
        """Where a device may listen is judged alike."""
        rules = [*GOLDEN, "*:80", "*:*", "[::1]:80", "0.0.0.0:80"]
        hosts = ["localhost", "127.0.0.1", "::1", "*", "0.0.0.0", "10.1.2.3", "db.example"]
        for rule in rules:
            mine, theirs = parse_rule(rule), device.Rules.parse([rule])
            for host in hosts:
                for port in (0, 80, 5432):
                    ours = mine.admits_listening(place_of(host, port, None, listen=True))
                    target = device.tcp_target(host, port, listen=True)
                    self.assertEqual(ours, theirs.judge_listening(target).allowed, (rule, host))

    def test_bad_rules(self) -> None:
        """What is no rule there is none here; ``*`` alone is a word of roles."""
        for text in (
            "",
            "localhost",
            ":80",
            "*:",
            "*:0",
            "*:65536",
            "*:20-10",
            "*:1-",
            "::1:22",
            "10.0.0.1/8:443",
            "10.0.0.0/33:1",
            "10.0.0.0/:1",
            "10.0/8:1",
            "010.0.0.1:1",
            "[2001:db8::/129]:1",
            "[::ffff:10.0.0.0/104]:1",
            "[10.0.0.0/8]:1",
            "a*.example:80",
            "*.*.example:80",
            "b\u00fccher:1",
            "unix:",
            "unix:x",
            "unix:/run/*/x.sock",
            "unix:/run/../x",
        ):
            with self.assertRaises(device.BadRule, msg=text):
                device.parse_rule(text)
            error = self.assertRaises(BadRule, parse_rule, text)
            self.assertTrue(str(error).isprintable(), text)
        self.assertTrue(all(parse_rule(ANY).admits(place(text)) for text in PLACES))

    @given(st.text("0123456789abcdflx:.[]/*%-", max_size=30))
    def test_any_rule(self, text: str) -> None:
        """Any text is a rule at both ends, or at neither."""
        ours = theirs = True
        try:
            parse_rule(text)
        except BadRule:
            ours = False
        try:
            device.parse_rule(text)
        except device.BadRule:
            theirs = False
        self.assertEqual(ours or text == ANY, theirs or text == ANY, text)

    @given(
        st.sampled_from([*GOLDEN, "*:*", "[::/0]:*", "0.0.0.0/0:*"]),
        st.ip_addresses(),
        st.sampled_from([80, 443]),
    )
    def test_any_address(self, rule: str, address: object, port: int) -> None:
        """Any address is granted at both ends, or at neither."""
        host = f"[{address}]" if ":" in str(address) else str(address)
        text = f"{host}:{port}"
        self.assertEqual(parse_rule(rule).admits(place(text)), on_device(rule, text))


class SameRangesTests(SynchronousTestCase):
    def test_what_must_be_named(self) -> None:
        """Both ends know the same ranges that must be named, and the same disguises of IPv4."""
        self.assertEqual(
            [f"{network.address}/{network.prefix}" for network, _ in addresses._SPECIAL],
            [str(network) for network in forward_rules._SPECIAL],
        )
        self.assertEqual(
            [(f"{net.address}/{net.prefix}", *form) for net, *form in addresses._WRAPPED],
            [(str(network), *form) for network, *form in forward_rules._WRAPPED],
        )
