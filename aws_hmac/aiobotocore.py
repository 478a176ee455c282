"""aiobotocore (and what builds on it: aioboto3, s3fs) with a key in a device; the event loop never waits for it.

::

    session = aws_hmac.aiobotocore.get_session(signer=signer, mode="direct")
    async with session.create_client("s3") as s3:
        await s3.list_buckets()

Modes and options are those of `aws_hmac.botocore`. Device and STS are called in threads.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

try:
    import aiobotocore.session
    from botocore.credentials import CredentialProvider, ReadOnlyCredentials
except ImportError as exc:
    from aws_hmac.errors import BackendUnavailableError

    raise BackendUnavailableError(
        f"aws_hmac.aiobotocore needs aiobotocore ({exc}); install it with: pip install 'aws-hmac[aiobotocore]'",
        name=exc.name,
    ) from exc

from aws_hmac._botocore import METHOD, SessionBackedCredentials, check_signer, insert, parse_options
from aws_hmac._direct import (
    DirectClient,
    DirectCredentials,
    DirectSigner,
    V4Chooser,
    add_to_clients,
    device_auth,
    direct_signer,
    refusal,
    register,
    resend,
    signing_key,
)
from aws_hmac.errors import ConfigError
from aws_hmac.sessions import SessionCredentials
from aws_hmac.signer import PRESIGN_RECHECK_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac.signer import Signer

_MIDNIGHT_SECONDS = 5
"""So long before midnight UTC the next day's key is fetched too, as signing may fall into the next day."""


def get_session(
    *,
    signer: Signer | None = None,
    profile_name: str | None = None,
    region_name: str | None = None,
    token_code: Callable[[], str] | None = None,
    **options: Any,
) -> aiobotocore.session.AioSession:
    """Returns an aiobotocore session whose credentials come from a device's key.

    Args:
        signer: signs; goes before every other source of credentials, also before AWS_ACCESS_KEY_ID.
        profile_name: a profile whose ``aws_hmac`` block says which key signs.
        region_name: the default region of clients, and of STS.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        options: as for `aws_hmac.Session`.

    Raises:
        ConfigError: an option is wrong or contradicts another, or the profile has no block.
        KeyURIError: the key is no key URI.
    """
    session = aiobotocore.session.get_session()
    if profile_name is not None:
        session.set_config_variable("profile", profile_name)
    if region_name is not None:
        session.set_config_variable("region", region_name)
    install(session, signer=signer, token_code=token_code, **options)
    return session


def install(
    session: aiobotocore.session.AioSession,
    *,
    signer: Signer | None = None,
    token_code: Callable[[], str] | None = None,
    **options: Any,
) -> None:
    """Does what `get_session` does to an aiobotocore session that you have. Call it before it makes a client.

    Args:
        session: the session.
        signer: signs.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        options: as for `aws_hmac.botocore.install`.

    Raises:
        ConfigError: as there.
        KeyURIError: the key is no key URI.
    """
    if not isinstance(session, aiobotocore.session.AioSession):
        raise ConfigError("install takes an aiobotocore session; for botocore use aws_hmac.botocore.install")
    check_signer(signer)
    explicit = signer is not None or options.get("key") is not None
    parsed = parse_options(session, options, signer_given=signer is not None, explicit=explicit)
    credentials: _AioDirectCredentials | _AioSessionBackedCredentials
    if parsed.mode == "direct":
        credentials = _AioDirectCredentials(signer or parsed.open_signer())
        add_to_clients(session, _AioDirectClient)
    else:
        credentials = _AioSessionBackedCredentials(SessionCredentials(parsed, signer=signer, token_code=token_code))
    resolver = session.get_component("credential_provider")
    insert(resolver, _AioProvider(credentials), first=explicit)
    found = _now(session.get_credentials())
    if explicit and found is not credentials:
        method = getattr(found, "method", None)
        raise ConfigError(
            f"this aiobotocore session has credentials already ({method}): install before they are used or set"
        )


class _AioProvider(CredentialProvider):
    METHOD = METHOD
    CANONICAL_NAME = "custom-aws-hmac"

    def __init__(self, credentials: Any) -> None:
        super().__init__()
        self._credentials = credentials

    async def load(self) -> Any:
        return self._credentials


class _AioSessionBackedCredentials(SessionBackedCredentials):
    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override] # as aiobotocore wants it
        frozen: ReadOnlyCredentials = await in_thread(super().get_frozen_credentials)
        return frozen

    async def get_account_id(self) -> str | None:
        return getattr(await self.get_frozen_credentials(), "account_id", None)


class _AioDirectCredentials(DirectCredentials):
    async def get_frozen_credentials(self) -> DirectCredentials:  # type: ignore[override] # as aiobotocore wants it
        return self

    def get_account_id(self) -> str | None:
        return self.account_id


class _AioDirectClient(DirectClient):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        signer = kwargs["request_signer"] = direct_signer(kwargs["request_signer"], _AioDirectSigner)
        super(DirectClient, self).__init__(*args, **kwargs)
        register(self, _AioV4Chooser(signer, kwargs["service_model"]).choose, _needs_retry)


class _AioDirectSigner(DirectSigner):
    async def get_auth_instance(
        self, signing_name: str, region_name: str, signature_version: str | None = None, **kwargs: Any
    ) -> Any:
        version = signature_version or self.signature_version  # type: ignore[attr-defined] # RequestSigner's
        stock = await super(DirectSigner, self).get_auth_instance(  # type: ignore[misc] # AioRequestSigner's
            signing_name, region_name, signature_version=version, **kwargs
        )
        auth = device_auth(stock, type(self), version, signing_name, region_name, kwargs)
        if auth is not stock:
            if version.endswith(("-query", "-post")):  # nobody sees the answer, so it is asked for now
                await in_thread(auth.credentials.signer.keys.recheck, interval=PRESIGN_RECHECK_SECONDS)
            auth.fetched = await _fetch(auth.credentials, region_name, signing_name)
        return auth

    get_auth = get_auth_instance


class _AioV4Chooser(V4Chooser):
    async def choose(  # type: ignore[override] # aiobotocore awaits its handlers
        self, signature_version: object, signing_name: str, context: dict[str, Any], **_: object
    ) -> str | None:
        if not self.concerns(signature_version, context):
            return None
        auth = await self.signer.get_auth_instance(signing_name, self.signer.region_name, "v4")
        return self.fallback(auth, signing_name, context)


async def _needs_retry(
    request_dict: dict[str, Any], response: Any = None, endpoint: Any = None, **_: object
) -> int | None:
    refused = refusal(request_dict, response, endpoint)
    if refused is None:
        return None
    return resend(request_dict, corrected=refused.clock_corrected() or await in_thread(refused.key_changed))


async def _fetch(credentials: DirectCredentials, region: str, service: str) -> dict[str, Any]:
    """Fetches the signing key of today, and of tomorrow if that is near, for every clock that may be meant."""
    now = time.time()
    moments = {now, now + _MIDNIGHT_SECONDS}
    if credentials.clocks.differ:
        moments |= {moment + credentials.clocks.difference for moment in moments}
    fetched = {}
    for date in {time.strftime("%Y%m%d", time.gmtime(moment)) for moment in moments}:
        scope = f"{date}/{region}/{service}/aws4_request"
        key = credentials.signer.keys.kept_key(date, region, service)
        fetched[scope] = key or await in_thread(signing_key, credentials, scope)
    return fetched


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function in a thread, under asyncio or, by anyio, under trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import functools

        import anyio.to_thread

        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))
    return await asyncio.to_thread(function, *args, **kwargs)


def _now(coroutine: Any) -> Any:
    """Returns what a coroutine returns that waits for nothing; None if it would wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    return None
