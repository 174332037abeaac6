"""Which operator this machine is."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rshell.client.errors import NotConfigured
from rshell.client.profiles import Profile, default_directory, find_profile
from rshell.identity.credentials import Credentials, CredentialStore
from tests.client.fake_gateway import operator_credentials


class ProfileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(mode=0o700)
        self.environ = {"HOME": str(self.root / "user")}

    def gateway_home(self, links: str = '{"links": "127.0.0.1:4711"}') -> Path:
        home = self.root / "gateway"
        CredentialStore(home / "admin").save(operator_credentials())
        (home / "endpoints.json").write_text(links)
        return home

    def test_gateways_home(self) -> None:
        """--home of a gateway is its local administrator, at the address in endpoints.json."""
        profile = find_profile(str(self.gateway_home()), {})
        self.assertEqual(profile.addresses, ("127.0.0.1:4711",))
        self.assertTrue(profile.local)
        self.assertEqual(profile.credentials.name.name, "alice")

    def test_addresses_that_only_bind(self) -> None:
        """A gateway that listens on all addresses is dialled on the loopback."""
        for bound, dialled in (
            ("0.0.0.0:7411", "127.0.0.1:7411"),
            ("[::]:7411", "[::1]:7411"),
            ("gw.example:1", "gw.example:1"),
        ):
            home = self.gateway_home(f'{{"links": "{bound}", "ssh": ""}}')
            self.assertEqual(find_profile(str(home), {}).addresses, (dialled,))

    def test_gateway_not_running(self) -> None:
        """Without endpoints.json, or with nonsense in it, the error says how to start it."""
        home = self.gateway_home()
        for content in ("", "[]", '{"links": ""}', '{"links": "host:0"}', "{"):
            (home / "endpoints.json").write_text(content)
            error = self.assertRaises(NotConfigured, find_profile, str(home), {})
            self.assertIn("twistd -n rshell --home", error.hint)
        (home / "endpoints.json").unlink()
        error = self.assertRaises(NotConfigured, find_profile, str(home), {})
        self.assertEqual(error.message, "the gateway on this machine is not running")

    def test_profile_of_join(self) -> None:
        """--home of a directory made by join is that operator, at the gateways of the join."""
        CredentialStore(self.root / "mine").save(operator_credentials())
        profile = find_profile(str(self.root / "mine"), {})
        self.assertEqual((profile.addresses, profile.local), (("localhost:7411",), False))

    def test_order(self) -> None:
        """$RSHELL_HOME of a gateway comes before the own profile, and that before the rest."""
        home = self.gateway_home()
        own = default_directory(self.environ)
        CredentialStore(own).save(operator_credentials())
        self.assertEqual(find_profile(None, self.environ).directory, own)
        named = {**self.environ, "RSHELL_HOME": str(home)}
        self.assertTrue(find_profile(None, named).local)
        elsewhere = {**self.environ, "RSHELL_HOME": str(self.root / "nowhere")}
        self.assertEqual(find_profile(None, elsewhere).directory, own)

    def test_local_gateway_of_the_user(self) -> None:
        """Without a profile, a gateway in the user's state directory is found."""
        home = self.gateway_home()
        state = Path(self.environ["HOME"]) / ".local" / "state"
        state.mkdir(parents=True)
        home.rename(state / "rshell")
        self.assertTrue(find_profile(None, self.environ).local)

    def test_default_directory(self) -> None:
        """$XDG_CONFIG_HOME counts if it is absolute, as its specification says."""
        self.assertEqual(default_directory({"XDG_CONFIG_HOME": "/x"}), Path("/x/rshell"))
        relative = {"XDG_CONFIG_HOME": "x", "HOME": "/h"}
        self.assertEqual(default_directory(relative), Path("/h/.config/rshell"))

    def test_nothing(self) -> None:
        """A machine that is no operator's is told how to become one."""
        error = self.assertRaises(NotConfigured, find_profile, str(self.root / "none"), {})
        self.assertIn("rshell join", error.hint)

    def test_damaged(self) -> None:
        """Damaged credentials are an error of one line that quotes no key."""
        CredentialStore(self.root / "mine").save(operator_credentials())
        (self.root / "mine" / "identity" / "a" / "key.pem").write_text("garbage")
        error = self.assertRaises(NotConfigured, Profile.load, self.root / "mine")
        self.assertNotIn("\n", error.message)
        self.assertNotIn("garbage", error.message)

    def test_no_gateways(self) -> None:
        """Credentials without a gateway to dial are useless, and that is said."""
        found = operator_credentials()
        CredentialStore(self.root / "mine").save(
            Credentials.new(found.key, found.certificate_chain_pem, found.root_pem, ())
        )
        error = self.assertRaises(NotConfigured, Profile.load, self.root / "mine")
        self.assertIn("names no gateway", error.message)

    def test_repr_without_key(self) -> None:
        """A profile's repr shows no credentials."""
        CredentialStore(self.root / "mine").save(operator_credentials())
        self.assertNotIn("rivate", repr(Profile.load(self.root / "mine")))
