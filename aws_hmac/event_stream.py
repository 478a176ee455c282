"""Event-stream messages, each signed by the device's key (Transcribe, Kinesis Video, Bedrock, Lex …)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aws_hmac.errors import SigningError
from aws_hmac.sigv4.signature import credential_scope, moment
from aws_hmac.sigv4.streaming import event_date_header, event_string_to_sign, signed_event

if TYPE_CHECKING:
    from datetime import datetime

    from aws_hmac.signing_keys import SigningKeys


class EventSigner:
    """Signs the messages of one event stream, in order ("Signing Event Stream messages", Amazon Transcribe).

    Each signature covers the one before it. Not for several threads: a stream has one order. Around midnight
    UTC each message is signed by the key of its own day.

    Args:
        keys: of the `Signer`.
        region: as ``eu-west-1``.
        service: the service's signing name.
        seed_signature: the signature of the request that opens the stream.
    """

    def __init__(self, keys: SigningKeys, region: str, service: str, seed_signature: str) -> None:
        self._keys = keys
        self._region = region
        self._service = service
        self.signature = seed_signature

    def sign(self, message: bytes, *, at: datetime | None = None) -> bytes:
        """Wraps an encoded message into a signed one.

        Args:
            message: the event, encoded; empty for the last, which ends the stream.
            at: when it is sent; now if None.

        Returns:
            The bytes to send.

        Raises:
            SigningError: the message is not bytes, or the time none.
            Error: what the device answers, when it has to be asked.
        """
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise SigningError(f"message: must be bytes, and is of type {type(message).__name__}")
        if at is None:
            from datetime import datetime, timezone

            at = datetime.fromtimestamp(time.time(), timezone.utc)
        amz_date, date = moment(at)
        headers = event_date_header(int(at.timestamp() * 1000))
        payload = bytes(message)
        scope = credential_scope(date, self._region, self._service)
        to_sign = event_string_to_sign(amz_date, scope, self.signature, headers, payload)
        self.signature = self._keys.signing_key(date, self._region, self._service).sign(to_sign.encode())
        return signed_event(headers, payload, self.signature)

    def end(self, *, at: datetime | None = None) -> bytes:
        """Returns the signed empty message that ends the stream."""
        return self.sign(b"", at=at)

    def __repr__(self) -> str:
        return f"<EventSigner for {self._service} in {self._region}>"
