"""Handshakes between real OpenSSL connections joined in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from rshell.identity.authority import CertificateAuthority
from rshell.identity.clock_floor import ClockFloor
from rshell.identity.credentials import Credentials
from rshell.identity.fleet_home import chain_to_pem
from rshell.identity.keys import new_key, spki_hash
from rshell.identity.tls import (
    ALPN_LINK,
    ClientTLS,
    GatewayNotTrusted,
    GatewayTLS,
    JoinTLS,
    PeerCertificate,
    PeerRefused,
    explain_tls_failure,
    verify_gateway_name,
    verify_join_peer,
)
from tests.identity.dev_fleet import (
    NO_PROTOCOL,
    Handshake,
    client_tls,
    credentials,
    fleet,
    gateway_tls,
    make_dev,
    shake,
)

YEAR_1970 = 120.0


def plain_client(**options: object) -> SSL.Context:
    """A client which is not ours: no certificate, and it believes anybody."""
    context = SSL.Context(SSL.TLS_METHOD)
    if "alpn" in options:
        context.set_alpn_protos(options["alpn"])  # type: ignore[arg-type]  # a test's shorthand
    if options.get("old"):
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


def without_usage(leaf: Any, authority: CertificateAuthority) -> Any:
    """Issue a leaf of make-dev again, without the extension that says what it is for."""
    old = leaf.certificate
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=old.serial_number,
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    )
    for extension in old.extensions:
        if not isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(authority.signing_key(), hashes.SHA256())
    return attrs.evolve(leaf, chain=(certificate, *leaf.chain[1:]))


class GatewaySideTests(SynchronousTestCase):
    def peer(self, name: str) -> PeerCertificate:
        gateway = gateway_tls()
        met = shake(client_tls(name), gateway)
        self.assertEqual((met.client_error, met.server_error), (None, None))
        peer = gateway.peer_of(met.server)
        assert peer is not None
        return peer

    def refused(self, name: str, reason: str) -> Handshake:
        met = shake(client_tls(name), gateway_tls())
        self.assertIsInstance(met.server_error, PeerRefused)
        assert met.server_error is not None
        self.assertEqual(explain_tls_failure(met.server_error), reason)
        return met

    def test_creator(self) -> None:
        """It is a connection creator as Twisted wants one."""
        verifyObject(IOpenSSLServerConnectionCreator, gateway_tls())

    def test_device(self) -> None:
        """A device is known by name, key and serial number after the handshake."""
        leaf = fleet().leaves["device-1"]
        peer = self.peer("device-1")
        self.assertEqual(peer.name, credentials("device-1").name)
        self.assertEqual(peer.name.kind, "device")
        self.assertEqual(peer.spki, spki_hash(leaf.key.public_key()))
        self.assertEqual(peer.serial, leaf.certificate.serial_number)
        self.assertEqual(peer.not_after, leaf.certificate.not_valid_after_utc)
        self.assertFalse(peer.expired)

    def test_operator(self) -> None:
        """An operator's certificate passes too and says that it is an operator's."""
        self.assertEqual(self.peer("operator").name.kind, "operator")

    def test_expired(self) -> None:
        """A device which lay in a drawer passes the handshake and is flagged."""
        self.assertTrue(self.peer("expired-device").expired)

    def test_stranger(self) -> None:
        """A device of another fleet is refused in the handshake, and told so."""
        met = self.refused("stranger-device", "certificate signed by an unknown authority")
        assert met.client_error is not None
        self.assertEqual(
            explain_tls_failure(met.client_error),
            "peer does not know the authority of our certificate",
        )

    def test_expired_stranger(self) -> None:
        """Being expired forgives nothing else."""
        self.refused("expired-stranger-device", "certificate signed by an unknown authority")

    def test_self_signed(self) -> None:
        """A certificate signed by itself is refused."""
        self.refused("self-signed-device", "certificate signed by itself")

    def test_forged(self) -> None:
        """Naming the right issuer without its signature is refused."""
        self.refused("forged-device", "the certificate's signature is wrong")

    def test_gateway_as_client(self) -> None:
        """A gateway's certificate does not pass for a client's."""
        context = plain_client(alpn=[ALPN_LINK])
        leaf = fleet().leaves["gateway"]
        context.use_certificate(leaf.certificate)
        for certificate in leaf.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(leaf.key)
        met = shake(context, gateway_tls())
        assert met.server_error is not None
        self.assertEqual(
            explain_tls_failure(met.server_error), "certificate signed by an unknown authority"
        )

    def test_operator_by_device_ca(self) -> None:
        """The device CA cannot make operators."""
        self.wrong_kind("operator-by-device-ca", "operator")

    def test_device_by_operator_ca(self) -> None:
        """The operator CA cannot make devices."""
        self.wrong_kind("device-by-operator-ca", "device")

    def wrong_kind(self, name: str, kind: str) -> None:
        gateway = gateway_tls()
        met = shake(client_tls(name), gateway)
        self.assertIs(met.server_error, None)
        error = self.assertRaises(PeerRefused, gateway.peer_of, met.server)
        self.assertEqual(
            error.reason, f"the certificate names a {kind} but is not of the {kind} CA"
        )

    def test_other_fleet_name(self) -> None:
        """A certificate of our CA which names another fleet is refused."""
        keys = attrs.evolve(fleet().keys, fleet=make_dev().new_fleet(datetime.now(UTC)).fleet)
        gateway, met = self.meet(make_dev().device(keys, datetime.now(UTC)))
        error = self.assertRaises(PeerRefused, gateway.peer_of, met.server)
        self.assertEqual(error.reason, "the certificate names another fleet")

    def test_no_usage(self) -> None:
        """A certificate which does not say that it is a client's is refused."""
        leaf = without_usage(fleet().leaves["device-1"], fleet().keys.device)
        gateway, met = self.meet(leaf)
        error = self.assertRaises(PeerRefused, gateway.peer_of, met.server)
        self.assertEqual(error.reason, "the certificate is not meant for clients")

    def meet(self, leaf: Any) -> tuple[GatewayTLS, Handshake]:
        context = plain_client(alpn=[ALPN_LINK])
        context.use_certificate(leaf.chain[0])
        context.use_privatekey(leaf.key)
        gateway = gateway_tls()
        return gateway, shake(context, gateway)

    def test_no_certificate_on_a_link(self) -> None:
        """Whoever speaks the link protocol needs a certificate."""
        gateway = gateway_tls()
        met = shake(plain_client(alpn=[ALPN_LINK]), gateway)
        error = self.assertRaises(PeerRefused, gateway.peer_of, met.server)
        self.assertEqual(error.reason, "peer presented no certificate")

    def test_tls_1_2(self) -> None:
        """An older TLS is refused with a readable reason on both sides."""
        met = shake(plain_client(alpn=[ALPN_LINK], old=True), gateway_tls())
        assert met.server_error is not None
        assert met.client_error is not None
        self.assertEqual(explain_tls_failure(met.server_error), "peer does not speak TLS 1.3")
        self.assertEqual(explain_tls_failure(met.client_error), "peer does not speak TLS 1.3")

    def test_other_alpn(self) -> None:
        """A protocol which is not ours is refused by the alert made for it."""
        met = shake(plain_client(alpn=[b"h2", b"http/1.1"]), gateway_tls())
        assert met.server_error is not None
        assert met.client_error is not None
        self.assertEqual(
            explain_tls_failure(met.server_error), "peer offered no application protocol of ours"
        )
        self.assertEqual(
            explain_tls_failure(met.client_error), "peer accepts no application protocol of ours"
        )

    def test_no_alpn(self) -> None:
        """A peer which offers no protocol at all is refused right after the handshake."""
        gateway = gateway_tls()
        met = shake(plain_client(), gateway)
        error = self.assertRaises(PeerRefused, gateway.peer_of, met.server)
        self.assertEqual(explain_tls_failure(error), "peer offered no application protocol")

    def test_not_tls(self) -> None:
        """What scanners send gives a readable line."""
        table = {
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": "not TLS: an HTTP request",
            b"CONNECT x:443 HTTP/1.1\r\n\r\n": "not TLS: an HTTP CONNECT request",
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n": "not TLS",
            b"\x00" * 64: "not TLS",
        }
        for sent, reason in table.items():
            connection = gateway_tls().serverConnectionForTLS(NO_PROTOCOL)
            connection.set_accept_state()
            connection.bio_write(sent)
            error = self.assertRaises(SSL.Error, connection.do_handshake)
            self.assertEqual(explain_tls_failure(error), reason, sent)

    def test_renewed_leaf(self) -> None:
        """A replaced certificate is used from the next connection on; the open one runs on."""
        gateway = gateway_tls()
        before = shake(client_tls(), gateway)
        leaf = make_dev().gateway(fleet().keys, ("localhost",), datetime.now(UTC))
        gateway.replace(leaf.key, leaf.chain)
        after = shake(client_tls(), gateway)
        self.assertEqual(
            verify_gateway_name(after.client, "localhost").serial_number,
            leaf.certificate.serial_number,
        )
        before.client.send(b"still here")
        before.run()
        self.assertEqual((before.client_error, before.server_error), (None, None))
        self.assertIsNotNone(gateway.peer_of(before.server))

    def test_wrong_replacement(self) -> None:
        """A certificate without its key is refused and the old one stays."""
        gateway = gateway_tls()
        chain = fleet().leaves["gateway"].chain
        self.assertRaises(SSL.Error, gateway.replace, new_key(), chain)
        self.assertIs(shake(client_tls(), gateway).client_error, None)

    def test_no_resumption(self) -> None:
        """A session cannot be resumed: that would skip the check of the certificate."""
        gateway = gateway_tls()
        context = plain_client(alpn=[ALPN_LINK])
        leaf = fleet().leaves["device-1"]
        context.use_certificate(leaf.certificate)
        context.use_privatekey(leaf.key)
        first = shake(context, gateway)  # stays open: freeing it would void its session anyway
        session = first.client.get_session()
        assert session is not None
        client = SSL.Connection(context, None)
        client.set_session(session)
        client.set_connect_state()
        server = gateway.serverConnectionForTLS(NO_PROTOCOL)
        server.set_accept_state()
        met = Handshake(client, server).run()
        self.assertEqual((met.client_error, met.server_error), (None, None))
        # a resumed session has no verified chain
        self.assertEqual(len(server.get_verified_chain() or []), 2)

    def test_refusal_through_twisted(self) -> None:
        """Twisted ends a refused handshake cleanly: alert sent, readable reason, no traceback."""
        lost: list[Failure] = []

        class Ended(Protocol):
            def connectionLost(self, reason: Failure = connectionDone) -> None:
                lost.append(reason)

        factory = TLSMemoryBIOFactory(gateway_tls(), False, Factory.forProtocol(Ended))
        transport = StringTransport()
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(transport)
        client = client_tls("stranger-device").clientConnectionForTLS(NO_PROTOCOL)
        client.set_connect_state()
        for _ in range(3):
            try:
                client.do_handshake()
            except SSL.WantReadError:
                pass
            protocol.dataReceived(client.bio_read(65536))
            if transport.disconnecting:
                break
            client.bio_write(transport.value())
            transport.clear()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(
            [explain_tls_failure(reason) for reason in lost],
            ["certificate signed by an unknown authority"],
        )
        self.assertEqual(self.flushLoggedErrors(), [])


class ClientSideTests(SynchronousTestCase):
    def untrusted(self, client: ClientTLS, leaf_name: str, reason: str) -> None:
        met = shake(client, gateway_tls(leaf_name))
        self.assertIsInstance(met.client_error, GatewayNotTrusted)
        assert met.client_error is not None
        self.assertEqual(explain_tls_failure(met.client_error), reason)

    def gateway_born(self, when: datetime) -> GatewayTLS:
        leaf = make_dev().gateway(fleet().keys, ("localhost",), when)
        keys = fleet().keys
        return GatewayTLS(leaf.key, leaf.chain, keys.device.certificate, keys.operator.certificate)

    def test_creator(self) -> None:
        """They are connection creators as Twisted wants them."""
        verifyObject(IOpenSSLClientConnectionCreator, client_tls())
        verifyObject(IOpenSSLClientConnectionCreator, JoinTLS(bytes(32), "localhost"))

    def test_names(self) -> None:
        """The names and addresses of the certificate pass, all others do not."""
        met = shake(client_tls(), gateway_tls())
        for host in ("localhost", "LOCALHOST", "127.0.0.1", "::1"):
            verify_gateway_name(met.client, host)
        for host in ("elsewhere.example", "localhost.example", "127.0.0.2", "::2", "x\n", ""):
            error = self.assertRaises(GatewayNotTrusted, verify_gateway_name, met.client, host)
            self.assertEqual(error.reason, f"the gateway's certificate is not for {host!a}")

    def test_wrong_name(self) -> None:
        """A gateway of the fleet under another name is not believed."""
        met = shake(client_tls(), gateway_tls("gateway-wrong-name"))
        self.assertRaises(GatewayNotTrusted, verify_gateway_name, met.client, "localhost")

    def test_device_posing_as_gateway(self) -> None:
        """A device's certificate never passes for a gateway's, not even at a client of its own."""
        leaf = fleet().leaves["device-1"]
        keys = fleet().keys
        server = GatewayTLS(
            leaf.key,
            (*leaf.chain, keys.root.certificate),
            keys.device.certificate,
            keys.operator.certificate,
        )
        met = shake(client_tls(), server)
        self.assertIsInstance(met.client_error, GatewayNotTrusted)

    def test_server_certificate_of_the_device_ca(self) -> None:
        """A thief of the device CA's key cannot make gateways with it."""
        keys = fleet().keys
        leaf = make_dev().gateway(attrs.evolve(keys, gateway=keys.device), ("localhost",), self.now)
        server = GatewayTLS(
            leaf.key, leaf.chain, keys.device.certificate, keys.operator.certificate
        )
        met = shake(client_tls(), server)
        assert met.client_error is not None
        self.assertEqual(
            explain_tls_failure(met.client_error),
            "the certificate is not meant for this end of a connection",
        )
        met = shake(JoinTLS(bytes(32), "localhost"), server)
        pin = spki_hash(keys.root.certificate.public_key())
        error = self.assertRaises(
            GatewayNotTrusted, verify_join_peer, met.client, pin, "localhost", self.now
        )
        self.assertEqual(error.reason, "the certificate was not issued by a gateway CA")

    def test_other_root(self) -> None:
        """A gateway of another fleet is not believed, and gets to see no certificate."""
        other = make_dev().make_fleet(self.now)
        mine = credentials("device-1")
        root = chain_to_pem((other.keys.root.certificate,))
        confused = Credentials(mine.key, mine.certificate_chain_pem, root, mine.name, ())
        client = ClientTLS(confused, ClockFloor(None))
        met = shake(client, gateway_tls())
        assert met.client_error is not None
        self.assertIn(
            explain_tls_failure(met.client_error),
            ("certificate signed by an unknown authority", "certificate signed by itself"),
        )
        self.assertIs(met.server.get_peer_certificate(), None)

    def test_revoked_gateway(self) -> None:
        """A gateway whose key was revoked is not believed, others are."""
        revoked = frozenset([spki_hash(fleet().leaves["gateway"].key.public_key())])
        client = client_tls(revoked_gateways=revoked)
        self.untrusted(client, "gateway", "this gateway's key is revoked")
        self.assertIs(shake(client, gateway_tls("gateway-wrong-name")).client_error, None)

    def test_clock_1970(self) -> None:
        """A device which starts in 1970 connects."""
        met = shake(client_tls(wall=YEAR_1970), gateway_tls())
        self.assertEqual((met.client_error, met.server_error), (None, None))
        verify_gateway_name(met.client, "localhost")

    def test_gateway_newer_than_floor(self) -> None:
        """A gateway renewed after all we know of passes while our clock is untrusted."""
        server = self.gateway_born(self.now + timedelta(days=300))
        self.assertIs(shake(client_tls(wall=YEAR_1970), server).client_error, None)

    def test_gateway_not_yet_valid(self) -> None:
        """With a trusted clock the same gateway is refused."""
        met = shake(client_tls(), self.gateway_born(self.now + timedelta(days=300)))
        assert met.client_error is not None
        self.assertEqual(explain_tls_failure(met.client_error), "the certificate is not yet valid")

    def test_expired_gateway(self) -> None:
        """A gateway which expired before the floor is refused with a clock of 1970 too."""
        server = self.gateway_born(self.now - timedelta(days=400))
        for wall in (None, YEAR_1970):
            met = shake(client_tls(wall=wall), server)
            assert met.client_error is not None
            self.assertEqual(explain_tls_failure(met.client_error), "the certificate has expired")

    def test_time_moves_on(self) -> None:
        """Each dial is judged at its own time: OpenSSL takes a store's time only once."""
        seconds = [self.now.timestamp()]
        client = ClientTLS(credentials("device-1"), ClockFloor(None, wall=lambda: seconds[0]))
        self.assertIs(shake(client, gateway_tls()).client_error, None)
        seconds[0] += timedelta(days=500).total_seconds()
        self.untrusted(client, "gateway", "the certificate has expired")

    def test_join_gateway_protocol(self) -> None:
        """A connection made for joining is not taken for a link, nor the other way round."""
        join = shake(JoinTLS(bytes(32), "localhost"), gateway_tls())
        self.assertRaises(GatewayNotTrusted, verify_gateway_name, join.client, "localhost")
        link = shake(client_tls(), gateway_tls())
        pin = spki_hash(fleet().keys.root.certificate.public_key())
        self.assertRaises(
            GatewayNotTrusted, verify_join_peer, link.client, pin, "localhost", self.now
        )

    def test_floor_raised(self) -> None:
        """It cannot be before the begin of our own certificate."""
        clock = ClockFloor(None, wall=lambda: YEAR_1970)
        held = credentials("device-1")
        ClientTLS(held, clock)
        self.assertEqual(clock.floor, held.certificate.not_valid_before_utc)

    def test_no_usage(self) -> None:
        """A certificate which does not say that it is a server's is no gateway's."""
        keys = fleet().keys
        leaf = without_usage(fleet().leaves["gateway"], keys.gateway)
        server = GatewayTLS(
            leaf.key, leaf.chain, keys.device.certificate, keys.operator.certificate
        )
        met = shake(client_tls(), server)
        error = self.assertRaises(GatewayNotTrusted, verify_gateway_name, met.client, "localhost")
        self.assertEqual(error.reason, "the peer's certificate is not a gateway's")

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)


class ExplanationTests(SynchronousTestCase):
    def test_closed(self) -> None:
        """However a peer vanishes, the line is the same."""
        for error in (
            ConnectionLost(),
            ConnectionDone(),
            SSL.SysCallError(-1, "Unexpected EOF"),
            SSL.Error([]),
            Failure(ConnectionLost()),
        ):
            self.assertEqual(explain_tls_failure(error), "peer closed during the handshake")

    def test_unknown(self) -> None:
        """What is not in the table still gives one line."""
        self.assertEqual(
            explain_tls_failure(SSL.Error([("SSL routines", "", "strange thing")])),
            "TLS failed: strange thing",
        )
        self.assertEqual(explain_tls_failure(ValueError("a\nb")), "ValueError: a b")
        self.assertEqual(explain_tls_failure(OSError("no route")), "no connection: no route")
