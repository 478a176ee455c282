"""``pkcs11``: a key on an HSM, smart card or other token, through its PKCS#11 module.

Attributes of the URI (RFC 7512; all may be left out, but one token and one key must remain):

======================================================== ============================================================
``token`` ``manufacturer`` ``serial`` ``model``          the token, by what it says of itself
``slot-id`` ``slot-manufacturer`` ``slot-description``   the slot
``library-manufacturer`` ``library-description``
``library-version``                                      the module, by what it says of itself
``object``                                               the key's label (CKA_LABEL)
``id``                                                   the key's CKA_ID, percent-encoded
``type``                                                 ``secret-key``, if given
*after ``?``:* ``module-path``                           the module's library; absolute, and not writable by others
``module-name``                                          the module by name; without either, p11-kit's proxy
``pin-source``                                           ``file:/path``, ``env:NAME``, ``cmd:program args``, ``prompt``
======================================================== ============================================================

Example: ``pkcs11:token=aws;object=prod?pin-source=file:/run/secrets/pin``. Permissions needed: to read the PIN, to load
the module, to log in as user; an import also needs a read/write session. See docs/pkcs11.md.
"""

from __future__ import annotations

from aws_hmac_backends.pkcs11._backend import Pkcs11Backend

__all__ = ["Pkcs11Backend"]
