"""Every error that aws-hmac raises.

::

Error:
    ├ UnknownSchemeError(LookupError)        no installed backend has this scheme
    ├ KeyURIError(ValueError)                the URI cannot be read, or names what cannot be
    ├ BackendUnavailableError(ImportError)   the extra is not installed
    ├ KeyNotFoundError(LookupError)
    ├ AmbiguousKeyError(LookupError)
    ├ KeyExistsError(FileExistsError)
    ├ KeyMismatchError                       not the key that it was, or that was named
    ├ AuthenticationError(PermissionError)   PIN, password, token
    ├ KeyPolicyError(PermissionError)        the device refuses: PCR, disabled, pending deletion, foreign account
    ├ DeviceError(OSError)
    │ ├ DeviceLostError                      it was there and is gone
    │ └ DeviceBusyError                      it is there and has no time
    ├ UnsupportedError                       the device or mode cannot do this
    ├ SigningError(ValueError)               this request cannot be signed as asked
    ├ STSError                               AWS's code, message and request id
    ├ SessionExpiredError
    └ ConfigError(ValueError)                profile, options

Each is also the built-in exception that fits. A message says what is wrong, with which object, and what to
do; none holds a secret, a PIN, a token or a derived key.
"""

from __future__ import annotations


class Error(Exception):
    """The root: ``except aws_hmac.Error`` catches whatever this library raises on purpose.

    Its text is one line that a terminal or a log shows and does not obey: labels of tokens, answers of servers
    and names of files come from elsewhere.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(
            c if c.isprintable() else " " if c in "\t\r\n" else c.encode("unicode_escape").decode() for c in text
        )


class UnknownSchemeError(Error, LookupError):
    """No installed backend has the scheme of this key URI, or two claim it."""


class KeyURIError(Error, ValueError):
    """A key URI cannot be read, or names what cannot be."""


class BackendUnavailableError(Error, ImportError):
    """A backend's optional dependency is missing; the message names the extra to install."""


class KeyNotFoundError(Error, LookupError):
    """The device is there, the key is not; the message lists what is."""


class AmbiguousKeyError(Error, LookupError):
    """The URI fits more than one token or key; the message lists them."""


class KeyExistsError(Error, FileExistsError):
    """An import would overwrite a key."""


class KeyMismatchError(Error):
    """The key is not the one that it was, or the one that was named."""


class AuthenticationError(Error, PermissionError):
    """A PIN, password or token is missing, wrong, locked or expired."""


class KeyPolicyError(Error, PermissionError):
    """The device refuses to use this key: PCR values, disabled, pending deletion, foreign account."""


class DeviceError(Error, OSError):
    """The device cannot be reached or failed."""


class DeviceLostError(DeviceError):
    """The device was there and is gone."""


class DeviceBusyError(DeviceError):
    """The device is there and has no time or room: ask again later."""


class UnsupportedError(Error):
    """The device or mode cannot do what was asked."""


class SigningError(Error, ValueError):
    """This request cannot be signed as asked; the message names the part."""


class STSError(Error):
    """STS refused, or could not be reached.

    Attributes:
        code: AWS's error code, as ``AccessDenied``; None where no answer came.
        message: AWS's message.
        request_id: AWS's request id; None where the answer held none.
        status: the HTTP status; None where no answer came.
    """

    def __init__(
        self,
        text: str,
        *,
        code: str | None = None,
        message: str | None = None,
        request_id: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.message = message
        self.request_id = request_id
        self.status = status


class SessionExpiredError(Error):
    """Temporary credentials have expired and could not be renewed."""


class ConfigError(Error, ValueError):
    """A profile or option is wrong or contradicts another."""


class SecurityWarning(UserWarning):
    """Something works but protects the key less than it could."""


class ClockSkewWarning(UserWarning):
    """This machine's clock is wrong: it was corrected for one call, and must be set."""


class SessionWarning(UserWarning):
    """Temporary credentials are delivered, but less conveniently than they could be."""


class ExpiryWarning(UserWarning):
    """Something was made that will stop working before the time that was asked for."""


def forget_locals(exc: BaseException) -> None:
    """Clears what the frames of an exception's traceback hold, of those behind it too: it may be secret.

    The lines that a traceback shows stay. Frames that still run keep what they hold.
    """
    from traceback import clear_frames  # only where something failed

    seen: list[BaseException | None] = [None]
    ahead: list[BaseException | None] = [exc]
    while ahead:
        this = ahead.pop()
        if this is not None and this not in seen:
            clear_frames(this.__traceback__)
            seen.append(this)
            ahead += [this.__cause__, this.__context__]
