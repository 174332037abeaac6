"""Why a TLS connection came to nothing, in one line for a person.

OpenSSL speaks in queues of error tuples; a log of ten thousand devices needs sentences. Nothing
a peer sent is quoted.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionClosed,
    ConnectionDone,
    ConnectionLost,
)
from twisted.python.failure import Failure

__all__ = ["GatewayNotTrusted", "PeerRefused", "explain_tls_failure", "verification_reason"]


class _Refusal(SSL.Error):
    """A judgement of ours about a peer.

    It is an SSL.Error, with arguments shaped like one, because it is also raised from within
    OpenSSL's callbacks, and Twisted's TLS transport ends a handshake cleanly for those only.
    """

    def __init__(self, reason: str) -> None:
        super().__init__([("rshell", "", reason)])
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class PeerRefused(_Refusal):
    """The gateway does not accept what a device or operator presented; `reason` says why."""


class GatewayNotTrusted(_Refusal):
    """A device or operator does not believe that this is its gateway; `reason` says why."""


# X509_V_ERR_* of openssl/x509_vfy.h
_VERIFICATION = {
    7: "the certificate's signature is wrong",
    9: "the certificate is not yet valid",
    10: "the certificate has expired",
    18: "certificate signed by itself",
    26: "the certificate is not meant for this end of a connection",
    79: "the certificate was issued by one that is no authority",
}
_UNKNOWN_AUTHORITY = frozenset({2, 19, 20, 21, 27})

_UNKNOWN = "certificate signed by an unknown authority"
_CLOSED = "peer closed during the handshake"
_NOT_TLS = "not TLS"

# The first match wins; the texts are OpenSSL's reason strings, in lower case.
_REASONS = (
    ("http request", "not TLS: an HTTP request"),
    ("https proxy request", "not TLS: an HTTP CONNECT request"),
    ("unexpected eof", _CLOSED),
    ("alert protocol version", "peer does not speak TLS 1.3"),
    ("unsupported protocol", "peer does not speak TLS 1.3"),
    ("wrong version number", _NOT_TLS),
    ("packet length too long", _NOT_TLS),
    ("record layer failure", _NOT_TLS),
    ("bad record type", _NOT_TLS),
    ("unexpected message", "peer broke the TLS protocol"),
    ("no application protocol", "peer accepts no application protocol of ours"),
    ("no shared cipher", "peer has no TLS cipher in common with us"),
    ("no suitable", "peer has no TLS parameters in common with us"),
    ("certificate required", "peer demands a certificate and got none"),
    ("alert unknown ca", "peer does not know the authority of our certificate"),
    ("alert certificate expired", "peer says that our certificate has expired"),
    ("alert certificate revoked", "peer says that our certificate is revoked"),
    ("alert bad certificate", "peer refused our certificate"),
    ("alert certificate unknown", "peer refused our certificate"),
    ("alert unsupported certificate", "peer says that our certificate is for another purpose"),
    ("alert access denied", "peer denied us access"),
    ("alert handshake failure", "peer ended the handshake"),
    ("alert decrypt error", "peer could not verify our signature"),
    ("alert internal error", "peer failed internally"),
    ("certificate verify failed", "the peer's certificate was refused"),
)


def verification_reason(error: int) -> str:
    """Put an OpenSSL certificate verification error (X509_V_ERR_*) into words."""
    if error in _UNKNOWN_AUTHORITY:
        return _UNKNOWN
    return _VERIFICATION.get(error, f"the certificate was refused (OpenSSL error {error})")


def explain_tls_failure(error: Failure | BaseException) -> str:
    """Say in one line why a TLS connection failed.

    Args:
        error: what `connectionLost`, a failed Deferred or an exception handler got.

    Returns:
        One line without a full stop, for a log or an error message.
    """
    if isinstance(error, Failure):
        if error.value is None:
            return _CLOSED
        return explain_tls_failure(error.value)
    if isinstance(error, _Refusal):
        return error.reason
    if isinstance(error, ConnectionAborted):
        return "we aborted the connection"
    if isinstance(error, ConnectionDone | ConnectionLost | ConnectionClosed):
        return _CLOSED
    if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
        return _CLOSED
    if isinstance(error, SSL.Error):
        return _explain_queue(error)
    if isinstance(error, ConnectError | OSError):
        return f"no connection: {_one_line(error)}"
    return f"{type(error).__name__}: {_one_line(error)}"


def _explain_queue(error: SSL.Error) -> str:
    queue = error.args[0] if error.args else []
    if not queue or not isinstance(queue, list):
        # OpenSSL 4 reports an unexpected end of file with an empty queue
        return _CLOSED
    reasons = [str(entry[-1]).lower() for entry in queue]
    for text, explanation in _REASONS:
        if any(text in reason for reason in reasons):
            return explanation
    return f"TLS failed: {reasons[-1] or 'unknown reason'}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no reason given"
