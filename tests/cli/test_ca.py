"""``rshell ca`` on a home and on bundles: what it does, and every bad input that was thought of."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from rshell.cli import ca as ca_verbs
from rshell.cli import ca_home
from rshell.cli.ca_home import certified_beside
from rshell.cli.main import cli
from rshell.client.errors import RshellError
from rshell.gateway.ca_report import InUse
from rshell.identity import bundle as bundles
from rshell.identity.authority import new_fleet
from rshell.identity.ca_journal import taken
from rshell.identity.fleet_home import FleetHome, chain_to_pem
from rshell.identity.gateway_leaf import fingerprint
from rshell.identity.revoked import list_from_bytes, list_to_bytes, sign_revoked
from tests.gateway.fleet import template_home

PASSPHRASE = "correct horse battery"


class CaCase(SynchronousTestCase):
    def setUp(self) -> None:
        # nobody guesses these passphrases
        self.patch(bundles, "SCRYPT_N", 16)
        self.base = Path(self.mktemp()).absolute()
        self.base.mkdir(mode=0o700)
        self.path = self.base / "gw"
        shutil.copytree(template_home(), self.path)
        self.home = FleetHome(self.path)
        self.secret = self.base / "pass"
        self.secret.write_text(PASSPHRASE + "\n")
        self.bundle = self.base / "b.bundle"

    def ca(self, *words: Any, data: bytes = b"", home: Path | None = None) -> Result:
        """Run a command on the home."""
        return self.bare(*words, "--home", home or self.path, data=data)

    def bare(self, *words: Any, data: bytes = b"") -> Result:
        """Run a command as it is."""
        runner = CliRunner()
        return runner.invoke(
            cli,
            ["ca", *map(str, words)],
            input=data,
            standalone_mode=False,
            env={"RSHELL_HOME": ""},
        )

    def done(self, result: Result) -> Any:
        """Return what a command that worked printed."""
        if result.exception is not None:
            raise result.exception
        self.assertIn(result.return_value, (0, None))
        return result.stdout

    def refused(self, code: str, result: Result) -> str:
        """Check that a command was refused in one line, with that code."""
        error = result.exception
        assert isinstance(error, RshellError), (result.stdout, result.exc_info)
        self.assertEqual(error.code, code, error.message)
        self.assertNotIn("\n", error.message + error.hint)
        return error.message

    def export(self, *more: Any) -> Result:
        """Export into the bundle."""
        return self.ca("export-root", self.bundle, "--passphrase-file", self.secret, *more)

    def sealed(self, *words: Any) -> tuple[Any, ...]:
        """Return words with the bundle and its passphrase."""
        return (*words, "--bundle", self.bundle, "--passphrase-file", self.secret)

    def keys_here(self) -> list[str]:
        """Return which of the two keys are in the home."""
        return [name for name in ("root", "gateway-ca") if self.home.key_path(name).exists()]

    def kinds(self) -> list[str]:
        """Return what was noted for the audit log."""
        return [found.kind for found in taken(self.path)]


BOTH = ["root", "gateway-ca"]


class ExportTests(CaCase):
    def test_moves(self) -> None:
        """The keys are in the bundle and not here any more, and the audit log will know."""
        self.assertIn(str(self.bundle), self.done(self.export()))
        self.assertEqual(self.keys_here(), [])
        shown = self.done(self.bare("check", self.bundle, "--passphrase-file", self.secret))
        self.assertIn(self.home.load().fleet, shown)
        self.assertEqual(self.kinds(), ["ca.export-root"])

    def test_into_a_directory(self) -> None:
        """In a directory the bundle is named after the fleet."""
        target = self.base / "stick"
        target.mkdir()
        self.done(self.ca("export-root", target, "--passphrase-file", self.secret))
        self.assertEqual(
            [path.name for path in target.iterdir()], [f"rshell-{self.home.load().fleet}.bundle"]
        )

    def test_keep(self) -> None:
        """--keep makes a copy; the same command without it then moves them."""
        self.done(self.export("--keep"))
        self.assertEqual(self.keys_here(), BOTH)
        self.done(self.export())
        self.assertEqual(self.keys_here(), [])

    def test_twice(self) -> None:
        """A second export says that the keys are away already, and leaves the bundle alone."""
        self.done(self.export())
        before = self.bundle.read_bytes()
        self.refused("exported", self.export())
        other = self.ca("export-root", self.base / "c", "--passphrase-file", self.secret)
        self.refused("exported", other)
        self.assertEqual(self.bundle.read_bytes(), before)
        self.assertFalse((self.base / "c").exists())

    def test_cut_short(self) -> None:
        """An export that died between the bundle and the removal is finished by the next one."""
        for left in (BOTH, ["root"], ["gateway-ca"]):
            self.setUp()
            self.done(self.export("--keep"))
            for name in set(BOTH) - set(left):
                self.home.key_path(name).unlink()
            if left != BOTH:
                target = self.base / "other"
                again = self.ca("export-root", target, "--passphrase-file", self.secret)
                self.refused("exported", again)
                self.assertEqual(self.keys_here(), left)
            self.done(self.export())
            self.assertEqual(self.keys_here(), [])

    def test_what_is_there_is_not_replaced(self) -> None:
        """Another file, fleet's bundle, or passphrase of the bundle keep the keys here."""
        stranger = self.base / "stranger"
        stranger.mkdir(mode=0o700)
        FleetHome(stranger).create(new_fleet(datetime.now(UTC)))
        for content in ("precious", ""):
            self.bundle.write_text(content)
            self.refused("exists", self.export())
            self.assertEqual(self.bundle.read_text(), content)
        self.bundle.unlink()
        words = ("export-root", self.bundle, "--passphrase-file", self.secret)
        self.done(self.ca(*words, home=stranger))
        self.refused("exists", self.export())
        self.bundle.unlink()
        self.done(self.export("--keep"))
        self.secret.write_text("another passphrase")
        self.refused("exists", self.export())
        self.assertEqual(self.keys_here(), BOTH)

    def test_full_disk(self) -> None:
        """On a disk that takes no more nothing is lost and nothing is left behind."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
        # the journal fits, the bundle does not; then neither does
        for size in (1000, 10):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            result = self.export()
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            self.refused("file", result)
            self.assertEqual(self.keys_here(), BOTH)
            self.assertFalse(self.bundle.exists())
        self.done(self.export())

    def test_bad_targets(self) -> None:
        """A missing directory, the home itself and a way round to it are refused."""
        (self.base / "round").symlink_to(self.path)
        for target, code in (
            (self.base / "absent" / "b", "file"),
            (self.path, "bad-request"),
            (self.path / "ca" / "b", "bad-request"),
            (self.base / "round" / "b", "bad-request"),
        ):
            result = self.ca("export-root", target, "--passphrase-file", self.secret)
            self.refused(code, result)
            self.assertEqual(self.keys_here(), BOTH)

    def test_passphrases(self) -> None:
        """A short passphrase, an empty file and a missing one are refused."""
        for text in ("", "short\n", "\nsecond line\n"):
            self.secret.write_text(text)
            self.refused("bad-bundle", self.export())
        self.secret.unlink()
        self.refused("file", self.export())
        self.assertEqual(self.keys_here(), BOTH)

    def test_no_terminal(self) -> None:
        """Without a terminal a passphrase is not waited for."""
        # In a session of its own: this test run may have a terminal.
        words = [sys.executable, "-m", "rshell.cli", "--json", "--home", self.path]
        done = subprocess.run(
            [*words, "ca", "export-root", self.bundle],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=120,
            check=False,
        )
        self.assertEqual(255, done.returncode, done.stderr)
        self.assertEqual("no-terminal", json.loads(done.stdout)["error"]["code"])
        self.assertFalse(self.bundle.exists())

    def test_bad_homes(self) -> None:
        """What is no gateway's home, or is open to others, is refused with a way out."""
        words = ("export-root", self.bundle, "--passphrase-file", self.secret)
        self.refused("not-a-home", self.ca(*words, home=self.base))
        self.path.chmod(0o755)
        self.refused("not-yours", self.export())
        self.path.chmod(0o700)
        self.home.key_path("root").write_bytes(b"damaged")
        self.refused("damaged", self.export())


class CertifyTests(CaCase):
    def setUp(self) -> None:
        super().setUp()
        self.request, self.leaf = self.base / "req.pem", self.base / "leaf.pem"

    def certified(self, *more: Any) -> Path:
        """Ask, and be answered."""
        self.request.unlink(missing_ok=True)
        self.leaf.unlink(missing_ok=True)
        self.done(self.ca("request", "--out", self.request))
        self.done(self.bare(*self.sealed("certify", self.request, "--out", self.leaf, *more)))
        return self.leaf

    def test_the_whole_way(self) -> None:
        """Asked for here, granted there, installed here: with the names there were."""
        before = self.home.load_leaf()
        assert before is not None
        self.done(self.export())
        answer = json.loads(self.done(self.ca("install", self.certified(), "--json")))
        after = self.home.load_leaf()
        assert after is not None
        self.assertEqual(answer["gateway"], fingerprint(after.chain[0]))
        self.assertIsNone(answer["in_use"])
        self.assertNotEqual(after.chain[0], before.chain[0])
        self.assertIsNone(self.home.pending_request())
        self.assertEqual(self.kinds(), ["ca.export-root", "ca.install"])
        listed = certified_beside(self.bundle).read_bytes()
        self.assertEqual(listed, chain_to_pem(after.chain[:1]))
        self.assertIn("in place", self.done(self.ca("install", self.leaf)))

    def test_with_the_keys_in_the_home(self) -> None:
        """While the keys are here no bundle is needed, and standard input and output will do."""
        asked = self.done(self.ca("request", "--name", "gw.example.net")).encode()
        granted = self.done(self.ca("certify", "--days", "1", data=asked)).encode()
        self.refused("names", self.ca("install", "-", data=granted))
        self.done(self.ca("install", "-", "--force", data=granted))

    def test_asked_twice(self) -> None:
        """A request that is made again has the same key: either answer fits."""
        self.done(self.export())
        first = self.certified().read_bytes()
        self.certified()
        self.done(self.ca("install", "-", data=first))

    def test_key_away(self) -> None:
        """Without the key, and without a bundle, it says what to give."""
        self.done(self.export())
        asked = self.done(self.ca("request")).encode()
        self.assertIn("moved away", self.refused("key-away", self.ca("certify", data=asked)))

    def test_bad_bundles(self) -> None:
        """A wrong passphrase, a bundle cut short, none at all and another file certify nothing."""
        self.done(self.export())
        self.done(self.ca("request", "--out", self.request))
        whole = self.bundle.read_bytes()
        words = self.sealed("certify", self.request)
        self.secret.write_text("another passphrase")
        self.refused("wrong-passphrase", self.bare(*words))
        self.secret.write_text(PASSPHRASE)
        self.bundle.write_bytes(whole[: len(whole) // 2])
        self.refused("bad-bundle", self.bare(*words))
        self.bundle.write_bytes(self.request.read_bytes())
        self.refused("bad-bundle", self.bare(*words))
        self.bundle.unlink()
        self.refused("file", self.bare(*words))

    def test_bad_requests(self) -> None:
        """What is no request, and names that are none, certify nothing."""
        self.done(self.export())
        for data in (b"", b"nonsense", chain_to_pem((self.home.load().root.certificate,))):
            self.refused("bad-request", self.bare(*self.sealed("certify"), data=data))
        asked = self.done(self.ca("request")).encode()
        bad = self.bare(*self.sealed("certify", "--name", "a b"), data=asked)
        self.refused("bad-request", bad)
        self.refused("bad-request", self.ca("request", "--name", "gw:7411"))

    def test_bad_certificates(self) -> None:
        """Another key's or fleet's certificate, and noise, are not installed; the old one stays."""
        before = (self.path / "gateway.pem").read_bytes()
        self.done(self.export("--keep"))
        other = self.base / "other"
        shutil.copytree(self.path, other)
        asked = self.done(self.ca("request", home=other)).encode()
        granted = self.done(self.bare(*self.sealed("certify"), data=asked)).encode()
        cut = granted[: len(granted) // 2]
        for data in (granted, cut, b"", b"nonsense", b"x" * 100_000):
            self.refused("bad-certificate", self.ca("install", "-", data=data))
        self.assertEqual((self.path / "gateway.pem").read_bytes(), before)

    def test_answer_of_a_revoked_key(self) -> None:
        """A certificate whose key was revoked meanwhile is not installed."""
        self.done(self.export("--keep"))
        leaf = self.certified()
        self.done(self.ca("revoke-gateway", leaf))
        self.refused("bad-certificate", self.ca("install", leaf))

    def test_gateway_that_does_not_use_it(self) -> None:
        """A running gateway that does not take the certificate is said; it is in place."""
        self.patch(ca_home, "USE_SECONDS", 0.0)
        self.done(self.export())
        state = InUse(pid=os.getpid(), leaf="another", revoked=0)
        (self.path / "certificates.json").write_bytes(msgspec.json.encode(state))
        self.refused("not-in-use", self.ca("install", self.certified()))


class RevokeTests(CaCase):
    def setUp(self) -> None:
        super().setUp()
        leaf = self.home.load_leaf()
        assert leaf is not None
        self.used = leaf.chain[0]
        self.out = self.base / "revoked.json"

    def current(self) -> tuple[int, list[str]]:
        """Return number and keys of the list in place."""
        told = list_from_bytes(self.home.revoked_path.read_bytes())
        return told.number, told.keys

    def test_in_the_home(self) -> None:
        """With the root's key here a fingerprint is enough; each list is newer and holds all."""
        self.done(self.ca("revoke-gateway", "a" * 64))
        first, keys = self.current()
        self.assertEqual(keys, ["a" * 64])
        spelled = ":".join(["BB"] * 32)
        self.done(self.ca("revoke-gateway", f"SHA256:{spelled}"))
        second, keys = self.current()
        self.assertEqual(keys, ["a" * 64, "b" * 64])
        self.assertGreater(second, first)
        self.done(self.ca("revoke-gateway", "b" * 64))
        self.assertEqual(self.current(), (second, keys))
        self.assertEqual(self.kinds(), ["ca.revoke-gateway"] * 2)

    def test_with_the_bundle(self) -> None:
        """Elsewhere the list is printed, kept beside the bundle, and goes on from there."""
        self.done(self.export())
        self.done(self.bare(*self.sealed("revoke-gateway", "a" * 64, "--out", self.out)))
        told = list_from_bytes(self.out.read_bytes())
        told_again = self.bare(*self.sealed("revoke-gateway", "b" * 64))
        self.assertIn("holds 2 keys; use it with: rshell ca install", told_again.stderr)
        again = self.done(told_again)
        second = list_from_bytes(again.encode())
        self.assertEqual(second.keys, ["a" * 64, "b" * 64])
        self.assertGreater(second.number, told.number)
        self.done(self.ca("install", self.out))
        self.done(self.ca("install", self.out))
        self.done(self.ca("install", "-", data=again.encode()))
        self.assertEqual(self.current(), (second.number, second.keys))
        self.refused("older", self.ca("install", self.out))

    def test_lost_list(self) -> None:
        """When the list beside the bundle is lost, the next one is newer but leaves keys out."""
        self.done(self.export())
        self.done(self.ca(*self.sealed("revoke-gateway", "a" * 64)))
        kept = self.home.revoked_path
        (self.base / "b.bundle.revoked").unlink()
        lost = self.bare(*self.sealed("revoke-gateway", "b" * 64, "--out", self.out))
        self.done(lost)
        self.assertIn("no list was made before", lost.stderr)
        error = self.refused_any(self.ca("install", self.out))
        self.assertIn(error, ("readmits", "older"))
        words = self.sealed("revoke-gateway", "b" * 64, "--previous", kept)
        whole = self.done(self.bare(*words))
        self.assertEqual(list_from_bytes(whole.encode()).keys, ["a" * 64, "b" * 64])

    def refused_any(self, result: Result) -> str:
        """Return the code of a refusal."""
        assert isinstance(result.exception, RshellError), result.exception
        return result.exception.code

    def test_readmits(self) -> None:
        """A newer list that leaves out a revoked key is installed by force only."""
        root = self.home.load(issuing=True, root=True).root
        self.done(self.ca("revoke-gateway", "a" * 64))
        shorter = list_to_bytes(sign_revoked(root, self.current()[0] + 1, []))
        self.refused("readmits", self.ca("install", "-", data=shorter))
        self.done(self.ca("install", "-", "--force", data=shorter))

    def test_key_in_use(self) -> None:
        """The key that the gateway uses is revoked by force only."""
        name = fingerprint(self.used)
        self.refused("in-use", self.ca("revoke-gateway", name[:8]))
        self.assertFalse(self.home.revoked_path.exists())
        self.done(self.ca("revoke-gateway", name[:8], "--force"))
        shown = json.loads(self.done(self.ca("show", "--json")))
        self.assertEqual([one["state"] for one in shown["gateways"]], ["revoked"])
        self.assertTrue(any("is revoked" in line for line in shown["warnings"]))

    def test_files(self) -> None:
        """A file revokes all gateways in it, no CA, and none that is spared."""
        self.done(self.export())
        request, leaf = self.base / "req.pem", self.base / "leaf.pem"
        self.done(self.ca("request", "--out", request))
        self.done(self.bare(*self.sealed("certify", request, "--out", leaf)))
        self.done(self.ca("install", leaf))
        every = self.path / "ca" / "gateways.pem"
        self.done(self.ca(*self.sealed("revoke-gateway", every, "--except", leaf)))
        self.assertEqual(self.current()[1], [fingerprint(self.used)])
        (self.base / "long.pem").write_bytes(every.read_bytes() + b"\n" * 700_000)
        self.refused("bad-request", self.ca("revoke-gateway", self.base / "long.pem"))
        nothing = self.ca(*self.sealed("revoke-gateway", leaf, "--except", leaf))
        self.refused("bad-request", nothing)
        whole_chain = self.done(self.bare(*self.sealed("revoke-gateway", leaf)))
        self.assertEqual(len(list_from_bytes(whole_chain.encode()).keys), 2)

    def test_bad_words(self) -> None:
        """What is neither a fingerprint nor a file with a gateway's certificate is refused."""
        (self.base / "empty").touch()
        root = self.path / "ca" / "root.pem"
        for word, code in (
            ("abcdef", "bad-request"),
            ("0" * 63, "bad-request"),
            ("0" * 65, "bad-request"),
            (fingerprint(self.used)[:7], "bad-request"),
            ("no-such-file", "file"),
            (self.base / "empty", "bad-request"),
            (root, "bad-request"),
        ):
            self.refused(code, self.ca("revoke-gateway", word))
        self.assertFalse(self.home.revoked_path.exists())

    def test_too_many(self) -> None:
        """A list that is full takes no more, and stays."""
        root = self.home.load(issuing=True, root=True).root
        full = sign_revoked(root, 5, [bytes([number]) * 32 for number in range(100)])
        self.home.revoked_path.write_bytes(list_to_bytes(full))
        self.refused("bad-list", self.ca("revoke-gateway", "ab" * 31 + "cd"))
        self.assertEqual(self.current()[0], 5)

    def test_bad_lists(self) -> None:
        """A foreign root's list, a broken and an older one are not installed."""
        self.done(self.ca("revoke-gateway", "a" * 64))
        before = self.current()
        stranger = new_fleet(datetime.now(UTC)).root
        foreign = list_to_bytes(sign_revoked(stranger, 2**60, []))
        for data in (foreign, b"{}", b'{"number":', foreign[:-20]):
            self.refused("bad-list", self.ca("install", "-", data=data))
        root = self.home.load(issuing=True, root=True).root
        for number in (before[0] - 1, before[0]):
            older = list_to_bytes(sign_revoked(root, number, []))
            self.refused("older", self.ca("install", "-", "--force", data=older))
        self.assertEqual(self.current(), before)

    def test_foreign_bundle(self) -> None:
        """Another fleet's bundle signs nothing for this home."""
        stranger = self.base / "stranger"
        stranger.mkdir(mode=0o700)
        FleetHome(stranger).create(new_fleet(datetime.now(UTC)))
        words = ("export-root", self.bundle, "--passphrase-file", self.secret)
        self.done(self.ca(*words, home=stranger))
        self.refused("bad-bundle", self.ca(*self.sealed("revoke-gateway", "a" * 64)))


class ShowTests(CaCase):
    def test_plain(self) -> None:
        """It says where keys are and when what ends, without a gateway that runs."""
        shown = self.done(self.ca("show"))
        for word in ("root", "gateway CA", "here", "in use", "localhost"):
            self.assertIn(word, shown)
        self.done(self.export())
        self.assertIn("away", self.done(self.ca("show")))

    def test_warns(self) -> None:
        """What ends soon and cannot renew itself is said on standard error, with what to do."""
        self.done(self.export())
        asked = self.done(self.ca("request")).encode()
        granted = self.done(self.bare(*self.sealed("certify", "--days", "1"), data=asked))
        self.done(self.ca("install", "-", data=granted.encode()))
        later = datetime.now(UTC) + timedelta(hours=20)
        self.patch(ca_verbs, "utc_now", lambda: later)
        result = self.ca("show")
        self.done(result)
        self.assertIn("rshell ca request", result.stderr)
