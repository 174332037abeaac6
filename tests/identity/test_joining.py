"""Whom a joining machine believes, which knows no more than the hash of a root."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from twisted.trial.unittest import SynchronousTestCase

from rshell.identity.keys import spki_hash
from rshell.identity.tls import GatewayNotTrusted, GatewayTLS, JoinTLS, verify_join_peer
from tests.identity.dev_fleet import Handshake, fleet, gateway_tls, make_dev, shake


class JoinTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = datetime.now(UTC)
        self.pin = spki_hash(fleet().keys.root.certificate.public_key())

    def join(self, server: GatewayTLS | None = None) -> Handshake:
        met = shake(JoinTLS(self.pin, "localhost"), server or gateway_tls())
        self.assertEqual((met.client_error, met.server_error), (None, None))
        return met

    def reason(self, met: Handshake, **changes: object) -> str:
        arguments = {"root_pin": self.pin, "host": "localhost", "now": self.now, **changes}
        error = self.assertRaises(GatewayNotTrusted, verify_join_peer, met.client, **arguments)
        return str(error.reason)

    def test_root_learned(self) -> None:
        """A machine which knows the root's hash only gets the root; the gateway sees nobody."""
        gateway = gateway_tls()
        met = self.join(gateway)
        root = verify_join_peer(met.client, self.pin, "localhost", self.now)
        self.assertEqual(root, fleet().keys.root.certificate)
        self.assertIs(gateway.peer_of(met.server), None)

    def test_other_pin(self) -> None:
        """A gateway of another fleet than the join string names is not believed."""
        self.assertEqual(
            self.reason(self.join(), root_pin=bytes(32)),
            "this gateway is not of the fleet that the join string names",
        )

    def test_wrong_host(self) -> None:
        """The name dialled has to be in the certificate."""
        self.assertEqual(
            self.reason(self.join(), host="elsewhere.example"),
            "the gateway's certificate is not for 'elsewhere.example'",
        )

    def test_clock_1970(self) -> None:
        """A machine which starts in 1970 joins."""
        past = datetime(1970, 1, 1, tzinfo=UTC)
        verify_join_peer(self.join().client, self.pin, "localhost", past)

    def test_trusted_clock(self) -> None:
        """With a trusted clock the certificates have to be valid now."""
        build_time = self.now - timedelta(days=100)
        met = self.join()
        early, late = self.now - timedelta(days=50), self.now + timedelta(days=800)
        for now, reason in (
            (early, "the certificate is not yet valid"),
            (late, "the certificate has expired"),
        ):
            self.assertEqual(self.reason(met, now=now, build_time=build_time), reason)

    def test_device_posing_as_gateway(self) -> None:
        """A device of the fleet which stands in for the gateway does not get the token."""
        leaf = fleet().leaves["device-1"]
        keys = fleet().keys
        chain = (*leaf.chain, keys.root.certificate)
        server = GatewayTLS(leaf.key, chain, keys.device.certificate, keys.operator.certificate)
        self.assertEqual(
            self.reason(self.join(server)), "the certificate was not issued by a gateway CA"
        )

    def test_borrowed_root(self) -> None:
        """Showing the right root behind a chain of another fleet does not help."""
        other = make_dev().make_fleet(self.now)
        leaf = other.leaves["gateway"]
        keys = fleet().keys
        chain = (*leaf.chain[:2], keys.root.certificate)
        server = GatewayTLS(leaf.key, chain, keys.device.certificate, keys.operator.certificate)
        self.assertEqual(
            self.reason(self.join(server)), "certificate signed by an unknown authority"
        )

    def test_root_missing(self) -> None:
        """A chain without the root cannot be judged, so it is not believed."""
        leaf = fleet().leaves["gateway"]
        keys = fleet().keys
        server = GatewayTLS(
            leaf.key, leaf.chain[:2], keys.device.certificate, keys.operator.certificate
        )
        self.assertEqual(
            self.reason(self.join(server)),
            "this gateway is not of the fleet that the join string names",
        )
