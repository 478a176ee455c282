"""boto3 and botocore with a key in a device.

`Session` is a ``boto3.Session`` whose credentials come from the device; `install` gives them to a botocore session
that you have. By default both hand out temporary credentials from STS, renewed as needed (``mode="session"``);
with ``mode="direct"`` the device's key signs every request itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import boto3
    import botocore.session
except ImportError as exc:
    from aws_hmac.errors import BackendUnavailableError

    raise BackendUnavailableError(
        f"aws_hmac.botocore needs boto3 ({exc}); install it with: pip install 'aws-hmac[boto3]'", name=exc.name
    ) from exc

from aws_hmac._botocore import METHOD, SessionBackedCredentials, as_retrieval_error, install, install_default
from aws_hmac.errors import ConfigError
from aws_hmac.profile import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac.signer import Signer

__all__ = ["METHOD", "Session", "SessionBackedCredentials", "as_retrieval_error", "install", "install_default"]


class Session(boto3.Session):
    """A ``boto3.Session`` whose credentials come from a device's key.

    Args:
        signer: signs; goes before every other source of credentials, also before AWS_ACCESS_KEY_ID.
        profile_name: a profile whose ``aws_hmac`` block says which key signs; AWS_PROFILE's or ``default`` if
            neither this, a signer nor a key is given.
        region_name: the default region of clients, and of STS.
        botocore_session: a botocore session to build on.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        options: the keys of the block (``docs/profiles.md``), as ``role_arn``, ``mode`` or ``key`` with
            ``access_key_id``; they go before those of the profile's block.

    Raises:
        ConfigError: an option is wrong or contradicts another, or the profile has no block.
        KeyURIError: the key is no key URI.
    """

    def __init__(
        self,
        *,
        signer: Signer | None = None,
        profile_name: str | None = None,
        region_name: str | None = None,
        botocore_session: botocore.session.Session | None = None,
        token_code: Callable[[], str] | None = None,
        **options: Any,
    ) -> None:
        session = botocore_session if botocore_session is not None else botocore.session.get_session()
        if profile_name is not None:
            session.set_config_variable("profile", profile_name)
        if region_name is not None:
            session.set_config_variable("region", region_name)
        explicit = signer is not None or options.get("key") is not None
        if explicit and profile_name is not None and BLOCK in session.get_scoped_config():
            raise ConfigError(
                f"Session: profile {profile_name!r} names a key of its own: give either that profile, or"
                f" {'a signer' if signer is not None else 'a key'}"
            )
        install(session, signer=signer, token_code=token_code, **options)
        super().__init__(botocore_session=session)
