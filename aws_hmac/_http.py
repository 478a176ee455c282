"""What the adapters for HTTP clients share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_hmac.answers import MAX_ERROR_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aws_hmac.signer import Signer
    from aws_hmac.sigv4 import PayloadHash, ServiceRules

TRANSPORT_HEADERS = frozenset({"accept", "accept-encoding", "content-length", "cookie"})
"""Headers that the client or a proxy may yet change, and that AWS does not ask for: sent, not signed."""

SIGNATURE_HEADERS = ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token")
"""Headers that must not follow a redirect to another place."""


class HttpSigning:
    """The key and the scope by which a client's requests are signed.

    Args:
        signer: the key.
        service: the service's signing name, as ``execute-api``.
        region: as ``eu-west-1``.
        payload: a payload marker in place of hashing the body, as `aws_hmac.sigv4.UNSIGNED_PAYLOAD`: bodies that
            can be read only once (generators, pipes, streams) need one.
        rules: how the service wants it; its own rules if None.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        service: str,
        region: str,
        payload: PayloadHash | None = None,
        rules: ServiceRules | None = None,
    ) -> None:
        self.signer = signer
        self.service = service
        self.region = region
        self.payload = payload
        self.rules = rules
        self._check()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.signer.access_key_id} for {self.service} in {self.region}>"

    def _check(self) -> None:
        """Refuses what this adapter cannot do."""

    def _signed(self, method: str, url: str, headers: Iterable[tuple[str, str]], body: Any) -> dict[str, str]:
        """Returns the headers of a signature, Host among them, and those that it covers."""
        return self.signer.sign(
            method,
            url,
            service=self.service,
            region=self.region,
            headers=[(name, value) for name, value in headers if name.lower() not in TRANSPORT_HEADERS],
            body=body,
            rules=self.rules,
        )


def may_be_signature_error(status: int, length: str) -> bool:
    """Tells, by its status and Content-Length, whether an answer may complain about the signature."""
    return status in (400, 401, 403) and length.isdigit() and 0 < int(length) <= MAX_ERROR_SIZE
