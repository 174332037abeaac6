"""What a device finds out about itself, from a made-up root and from the machine we run on."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rshell_agent.facts import (
    FACT_NAMES,
    MAX_FACTS_BYTES,
    FactsCollector,
    network,
    stable_digest,
    storage,
    system,
)


class RootCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir()

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class SystemTests(RootCase):
    def test_os_release(self) -> None:
        """Quotes and escapes are resolved, comments and nonsense are left out."""
        self.put(
            "etc/os-release", '# x\nID=arch\nPRETTY_NAME="A \\"b\\" \\$c"\nX=\'y\'\nbad\n1=2\n'
        )
        found = system.os_release(self.root)
        self.assertEqual({"ID": "arch", "PRETTY_NAME": 'A "b" $c', "X": "y"}, found)
        self.assertEqual({}, system.os_release(self.root / "nowhere"))

    def test_machine_hash(self) -> None:
        """It is the same for the same machine id, another for another, and not the id."""
        self.assertEqual("", system.machine_hash(self.root))
        self.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        first = system.machine_hash(self.root)
        self.assertEqual(first, system.machine_hash(self.root))
        self.assertRegex(first, r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab]")
        self.assertNotIn("0123456789abcdef", first.replace("-", ""))
        self.put("etc/machine-id", "0123456789abcdef0123456789abcdee\n")
        self.assertNotEqual(first, system.machine_hash(self.root))
        for bad in ("uninitialized\n", "", "00", "x" * 32):
            self.put("etc/machine-id", bad)
            self.assertEqual("", system.machine_hash(self.root))

    def test_proc(self) -> None:
        """Uptime, load and memory are numbers; what cannot be read is nothing."""
        self.assertEqual(
            (None, None, {}),
            (system.uptime_seconds(self.root), system.load(self.root), system.memory(self.root)),
        )
        self.put("proc/uptime", "23524.71 3.1\n")
        self.put("proc/loadavg", "0.10 0.20 0.30 1/99 7\n")
        self.put("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable: 500 kB\nOdd: x\nSwapFree: -\n")
        self.assertEqual(23524, system.uptime_seconds(self.root))
        self.assertEqual([0.1, 0.2, 0.3], system.load(self.root))
        self.assertEqual(
            {"total_bytes": 1_024_000, "available_bytes": 512_000}, system.memory(self.root)
        )
        self.put("proc/uptime", "soon")
        self.put("proc/loadavg", "1 2")
        self.assertIsNone(system.uptime_seconds(self.root))
        self.assertIsNone(system.load(self.root))


class StorageTests(RootCase):
    def test_which(self) -> None:
        """The root and file systems on devices are told; others, bind mounts and images not."""
        self.put("proc/filesystems", "nodev\ttmpfs\nnodev\tnfs4\nnodev\toverlay\n\text4\n")
        here = str(self.root)
        self.put(
            "proc/self/mounts",
            "overlay / overlay rw 0 0\n"
            f"/dev/sda1 {here} ext4 rw 0 0\n"
            "tmpfs /tmp tmpfs rw 0 0\n"
            "srv:/x /proc nfs4 rw 0 0\n"
            "/dev/sdb /no\\040such\\134place ext4 rw 0 0\n"
            "broken line\n",
        )
        found = storage.disks(self.root)
        self.assertEqual("/", found[0]["mount"])
        self.assertTrue(all(disk["type"] in ("overlay", "ext4") for disk in found))
        self.assertGreater(found[0]["size_bytes"], found[0]["free_bytes"] // 2)

    def test_escapes(self) -> None:
        """Blanks and backslashes in a mount point are resolved."""
        self.put("proc/self/mounts", "/dev/a\\040b /mnt/x\\134y ext4 ro,noexec 0 0\n")
        rows = storage._mounts(self.root)
        self.assertEqual([("/dev/a b", "/mnt/x\\y", "ext4", ["ro", "noexec"])], rows)

    def test_real(self) -> None:
        """This machine has a root file system."""
        self.assertIn("/", [disk["mount"] for disk in storage.disks()])


def message(kind: int, body: bytes, *attributes: tuple[int, bytes]) -> bytes:
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def link(index: int, name: bytes, flags: int = 1, mac: bytes = b"\2\0\0\0\0\1") -> bytes:
    return message(16, struct.pack("=BxHiII", 0, 1, index, flags, 0), (3, name + b"\0"), (1, mac))


def address(index: int, raw: bytes, prefix: int, *more: tuple[int, bytes]) -> bytes:
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return message(20, struct.pack("=BBBBi", family, prefix, 0, 0, index), (1, raw), *more)


class NetworkTests(SynchronousTestCase):
    def found(self, links: bytes, addresses: bytes) -> list[dict[str, Any]]:
        return network.interfaces(lambda kind, size: links if kind == 18 else addresses)

    def test_answer(self) -> None:
        """Interfaces with usable addresses are told, loopback and link-local ones are not."""
        peer = address(3, bytes([10, 9, 0, 1]), 32, (2, bytes([10, 9, 0, 2])))
        links = link(1, b"lo", flags=9) + link(2, b"eth0") + link(3, b"ppp0", mac=b"")
        addresses = (
            address(1, bytes([127, 0, 0, 1]), 8)
            + address(2, bytes([10, 0, 0, 7]), 24)
            + address(2, bytes.fromhex("fe80" + "00" * 13 + "01"), 64)
            + address(2, bytes.fromhex("fd" + "00" * 14 + "02"), 64)
            + address(9, bytes([10, 0, 0, 9]), 24)
            + peer
        )
        self.assertEqual(
            [
                {
                    "name": "eth0",
                    "mac": "02:00:00:00:00:01",
                    "addresses": ["10.0.0.7/24", "fd00::2/64"],
                },
                {"name": "ppp0", "addresses": ["10.9.0.2/32"]},
            ],
            self.found(links, addresses),
        )

    def test_garbage(self) -> None:
        """An answer that is cut anywhere, or says odd lengths, is no failure."""
        links, addresses = link(2, b"eth0"), address(2, bytes([10, 0, 0, 7]), 24)
        for cut in range(len(addresses)):
            self.found(links[:cut], addresses)
            self.found(links, addresses[:cut])
            odd = bytearray(addresses)
            odd[cut] ^= 0xFF
            self.found(links, bytes(odd))
        self.assertEqual([], self.found(b"\0" * 64, addresses))

    def test_refused(self) -> None:
        """A kernel without netlink costs the addresses and nothing else."""

        def refuse(kind: int, size: int) -> bytes:
            raise OSError(1, "no")

        self.assertEqual([], network.interfaces(refuse))

    def test_real(self) -> None:
        """The kernel's own answer can be read."""
        for interface in network.interfaces():
            self.assertTrue(interface["name"])
            self.assertTrue(interface["addresses"])


class DocumentTests(RootCase):
    def collector(self, handlers: int = 2) -> FactsCollector:
        names = [f"handler-{number}" for number in range(handlers)]
        return FactsCollector("0.1.0", lambda: names, root=self.root)

    def test_names(self) -> None:
        """Only known names are told, in their order; what is not there is left out."""
        facts = FactsCollector("0.1.0", lambda: ["exec"]).collect()
        self.assertEqual([name for name in FACT_NAMES if name in facts], list(facts))
        self.assertEqual(["exec"], facts["handlers"])
        self.assertIn("addresses", facts)
        few = self.collector().collect(["os", "boot_id"])
        self.assertEqual({"os": "linux"}, few)

    def test_hostile_files(self) -> None:
        """What a terminal would act on is replaced, what is long is cut."""
        self.put("etc/os-release", 'ID=arch\nPRETTY_NAME="\x1b]0;x\x07' + "y" * 999 + '"\n')
        name = self.collector().collect()["os_name"]
        self.assertTrue(name.isprintable())
        self.assertEqual(200, len(name))

    def test_bounded(self) -> None:
        """However much there is, the document fits, and says that something is missing."""
        collector = FactsCollector("0.1.0", lambda: [f"{n:03}" + "h" * 190 for n in range(500)])
        facts = collector.collect()
        self.assertLessEqual(len(json.dumps(facts, ensure_ascii=False).encode()), MAX_FACTS_BYTES)
        self.assertTrue(facts["truncated"])

    def test_digest(self) -> None:
        """It changes with what is slow, and not with what changes all the time."""
        facts: dict[str, Any] = {
            "os": "arch",
            "uptime_seconds": 1,
            "load": [0.1],
            "memory": {"total_bytes": 1, "available_bytes": 2, "swap_free_bytes": 3},
            "disks": [{"mount": "/", "size_bytes": 9, "free_bytes": 4}],
            "addresses": ["10.0.0.1"],
        }
        digest = stable_digest(facts)
        same = json.loads(json.dumps(facts))
        same["uptime_seconds"], same["load"] = 7, [9.0]
        same["memory"]["available_bytes"] = same["disks"][0]["free_bytes"] = 77
        self.assertEqual(digest, stable_digest(same))
        del same["load"]
        self.assertEqual(digest, stable_digest(same))
        for name, value in (("os", "debian"), ("addresses", []), ("memory", {"total_bytes": 2})):
            self.assertNotEqual(digest, stable_digest({**facts, name: value}), name)
