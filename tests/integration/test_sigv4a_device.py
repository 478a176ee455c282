"""SigV4A with both keys in a token."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aws_hmac import Signer, import_key, open_backend
from aws_hmac.sigv4.sigv4a import derive_private_key

if TYPE_CHECKING:
    from aws_hmac._softhsm import SoftHSMToken

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.mark.device("pkcs11")
def test_two_keys_in_a_token(softhsm_token: SoftHSMToken) -> None:
    uri = import_key(softhsm_token.uri("prod"), SECRET)
    sigv4a_uri = import_key(softhsm_token.uri("prod-sigv4a"), SECRET, sigv4a=True)
    with open_backend(uri) as key, open_backend(sigv4a_uri) as second:
        made = Signer(KEY_ID, key, sigv4a_backend=second).explain(
            "GET", "https://example.com/", service="s3", region_set="*"
        )
        mixed_up = Signer(KEY_ID, second, sigv4a_backend=key).explain(
            "GET", "https://example.com/", service="s3", region_set="*"
        )
    number = derive_private_key(lambda message: hmac.digest(b"AWS4A" + SECRET.encode(), message, "sha256"), KEY_ID)
    public = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    public.verify(bytes.fromhex(made.signature), made.string_to_sign.encode(), ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(bytes.fromhex(mixed_up.signature), mixed_up.string_to_sign.encode(), ec.ECDSA(hashes.SHA256()))
