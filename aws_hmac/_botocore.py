"""What `aws_hmac.botocore` does to botocore's sessions; without boto3, which the AWS CLI v2 has no room for."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

try:
    import botocore
    import botocore.session
    from botocore.credentials import (
        CredentialProvider,
        Credentials,
        ReadOnlyCredentials,
        create_credential_resolver,
    )
    from botocore.exceptions import CredentialRetrievalError
except ImportError as exc:
    from aws_hmac.errors import BackendUnavailableError

    raise BackendUnavailableError(
        f"aws_hmac.botocore needs botocore ({exc}); install it with: pip install 'aws-hmac[boto3]'", name=exc.name
    ) from exc

from aws_hmac.errors import ConfigError, Error
from aws_hmac.profile import BLOCK, Options, load_profile, sdk_settings
from aws_hmac.sessions import SessionCredentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_hmac.signer import Signer

METHOD = "aws-hmac"
"""What botocore calls this source of credentials, in its log and as ``credentials.method``."""


def install(
    session: botocore.session.Session,
    *,
    signer: Signer | None = None,
    token_code: Callable[[], str] | None = None,
    **options: Any,
) -> None:
    """Does what `Session` does to a botocore session that you have. Call it before the session makes a client.

    With a signer or a key the device goes before every other source of credentials. With neither, the session's
    profile says which key signs, and its block goes where a profile's ``role_arn`` would: the environment's
    AWS_ACCESS_KEY_ID goes first unless the profile was named in the program, as botocore has it.

    Args:
        session: a botocore session (of a boto3 session: the one that you made it with).
        signer: signs.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        options: as for `Session`.

    Raises:
        ConfigError: an option is wrong or contradicts another, the profile has no block, or the session has
            credentials of another source already.
        KeyURIError: the key is no key URI.
    """
    if not isinstance(session, botocore.session.Session):
        raise ConfigError("install takes a botocore session; for boto3 use aws_hmac.Session")
    install_session(session, signer=signer, token_code=token_code, **options)


def install_session(
    session: Any, *, signer: Signer | None = None, token_code: Callable[[], str] | None = None, **options: Any
) -> None:
    """Is `install` for what behaves like a botocore session, as that of the AWS CLI v2's own copy does."""
    explicit = signer is not None or options.get("key") is not None
    parsed = parse_options(session, options, signer_given=signer is not None, explicit=explicit)
    provide(session, _credentials(session, parsed, signer, token_code), first=explicit)


def install_default(
    *, signer: Signer | None = None, token_code: Callable[[], str] | None = None, **options: Any
) -> None:
    """Does what `install` does to every botocore session that this process makes from now on.

    It reaches ``boto3.client(…)``, ``boto3.Session()`` and libraries that make sessions of their own; not
    sessions that exist already, other processes, aiobotocore, or a client or session that is given credentials
    in the program. With a signer or a key each session uses it; with neither, each whose profile has a block.
    A second call replaces the first.

    Args:
        signer: signs.
        token_code: returns an MFA code when one is needed; asked for on the terminal if None.
        options: as for `Session`.

    Raises:
        ConfigError: an option is wrong or contradicts another.
        KeyURIError: the key is no key URI.
    """
    global _default
    check_signer(signer)
    if options.get("key") is not None:
        named: dict[str, Any] = {
            name: options.pop(name) for name in ("key", "access_key_id", "cache", "max_age") if name in options
        }
        if signer is not None:
            raise ConfigError(f"install_default: {', '.join(named)} cannot be set where a signer is given")
        signer = Options(named, what="install_default").open_signer()
    if signer is not None:
        Options({name: value for name, value in options.items() if value is not None}, what="install_default",
                signer_given=True)  # fmt: skip

    def initialize(session: botocore.session.Session) -> None:
        if inspect.iscoroutinefunction(session.get_credentials):
            return  # aiobotocore's

        def make_resolver() -> Any:
            # Made when it is first asked for: boto3 sets the profile after this function has been called.
            resolver = create_credential_resolver(session, region_name=session.get_config_variable("region"))
            if signer is not None or BLOCK in session.get_scoped_config():
                parsed = parse_options(session, options, signer_given=signer is not None, explicit=signer is not None)
                insert(resolver, _Provider(_credentials(session, parsed, signer, token_code)), first=signer is not None)
            return resolver

        session.lazy_register_component("credential_provider", make_resolver)

    if _default is not None:
        botocore.unregister_initializer(_default)
    botocore.register_initializer(initialize)
    _default = initialize


_default: Callable[[botocore.session.Session], None] | None = None


def _credentials(
    session: Any,
    parsed: Options,
    signer: Signer | None,
    token_code: Callable[[], str] | None,
) -> Credentials:
    check_signer(signer)
    if parsed.mode == "direct":
        from aws_hmac._direct import DirectCredentials, add_to_clients

        add_to_clients(session)
        return DirectCredentials(signer or parsed.open_signer())
    return SessionBackedCredentials(SessionCredentials(parsed, signer=signer, token_code=token_code))


def check_signer(signer: object) -> None:
    """Refuses what is no signer, now and not at the first request."""
    from aws_hmac.signer import Signer

    if signer is not None and not isinstance(signer, Signer):
        raise ConfigError(
            f"signer: must be an aws_hmac.Signer, as aws_hmac.Signer(access_key_id, key), and is of type"
            f" {type(signer).__name__}"
        )


def provide(session: Any, credentials: Credentials, *, first: bool) -> None:
    """Makes credentials the ones that a botocore session uses.

    Args:
        session: the session.
        credentials: what it shall use.
        first: before every other source, else where a profile's ``role_arn`` would come.

    Raises:
        ConfigError: the session has credentials of another source already.
    """
    resolver = session.get_component("credential_provider")
    insert(resolver, _Provider(credentials), first=first)
    # Nothing but the environment is looked at before ours: this asks neither a device nor the network.
    if resolver.load_credentials() is credentials and session.get_credentials() is not credentials:
        method = getattr(session.get_credentials(), "method", None)
        raise ConfigError(
            f"this botocore session has credentials already ({method}): install before they are used or set"
        )


def insert(resolver: Any, provider: CredentialProvider, *, first: bool) -> None:
    """Puts our provider into a session's chain, in place of one put there before; ``first`` as for `provide`."""
    resolver.remove(METHOD)
    resolver.insert_before(resolver.providers[0].METHOD if first else "assume-role", provider)


class SessionBackedCredentials(Credentials):
    """botocore's view of `aws_hmac.sessions.SessionCredentials`, which decides when to renew."""

    def __init__(self, source: SessionCredentials) -> None:
        self._source = source
        self.method = METHOD

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Returns credentials that are good now.

        Raises:
            Error: as `SessionCredentials.get` does; also a botocore CredentialRetrievalError.
        """
        try:
            now = self._source.get()
        except Error as exc:
            raise as_retrieval_error(exc) from exc
        fields = (now.access_key_id, now.secret_access_key, now.session_token, now.account_id)
        return ReadOnlyCredentials(*fields[: len(ReadOnlyCredentials._fields)])  # older ones have no account

    @property
    def access_key(self) -> str | None:  # type: ignore[override] # a plain attribute there, as in RefreshableCredentials
        """The access key id that is good now; not secret."""
        return self.get_frozen_credentials().access_key

    @property
    def secret_key(self) -> str | None:  # type: ignore[override] # a plain attribute there, as in RefreshableCredentials
        """The session's secret; take `get_frozen_credentials` for all parts of one session."""
        return self.get_frozen_credentials().secret_key

    @property
    def token(self) -> str | None:  # type: ignore[override] # a plain attribute there, as in RefreshableCredentials
        """The session token."""
        return self.get_frozen_credentials().token

    @property
    def account_id(self) -> str | None:
        """Whose session it is, where STS said so."""
        return getattr(self.get_frozen_credentials(), "account_id", None)

    def __repr__(self) -> str:
        return f"<SessionBackedCredentials of {self._source.options.what}>"


def as_retrieval_error(exc: Error) -> Error:
    """Returns the same error as one that is also botocore's CredentialRetrievalError, which SDK code catches."""
    if isinstance(exc, CredentialRetrievalError):
        return exc
    kind = type(exc)
    both = _BOTH.get(kind)
    if both is None:
        both = _BOTH[kind] = type(kind.__name__, (kind, CredentialRetrievalError), {"__module__": kind.__module__})
    made: Error = both.__new__(both, *exc.args)
    made.args = exc.args
    made.__dict__.update(exc.__dict__, kwargs={"provider": METHOD, "error_msg": str(exc)})
    return made


_BOTH: dict[type[Error], type[Error]] = {}


class _Provider(CredentialProvider):
    METHOD = METHOD
    CANONICAL_NAME = "custom-aws-hmac"

    def __init__(self, credentials: Credentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> Credentials:
        return self._credentials


def parse_options(session: Any, given: dict[str, Any], *, signer_given: bool, explicit: bool) -> Options:
    """Reads the arguments of `install`, together with the profile's block unless they say all."""
    values = {name: value for name, value in given.items() if value is not None}
    if not explicit:
        options = load_profile(session.profile or "default", **values)
        if options.region is None:
            options.region = session.get_config_variable("region")
        return options
    for name in ("region", "use_fips_endpoint", "use_dualstack_endpoint", "ca_bundle"):
        values.setdefault(name, session.get_config_variable(name))
    if values.get("mode") != "direct":
        for name, value in sdk_settings(session.profile or "default").items():
            if values.get(name) is None:
                values[name] = value
    return Options(values, what="Session", signer_given=signer_given)
