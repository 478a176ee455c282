"""Nothing that is shown, logged, raised or printed holds a secret, a PIN, a session token or a derived key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import logging
import sys
import traceback
import warnings
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aws_hmac
from aws_hmac import Signer, _session_files, sts
from aws_hmac.backend import HmacBackend, fingerprint
from aws_hmac.cli import demo, main
from aws_hmac.cli.key_import import AccessKey, from_csv
from aws_hmac.cli.memory_scan import forms
from aws_hmac.errors import Error
from aws_hmac.profile import Options, load_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.logging import LogCaptureFixture

    from aws_hmac._softhsm import SoftHSMToken
    from tests.conftest import MotoServer

ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "cAnArY+canary/CANARY1canary2canary3canary"
PIN = "90817263"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def shown_forms(secret: bytes) -> list[str]:
    """How a secret could be written: as text, repr, hexadecimal, base64 or percent-encoded."""
    from urllib.parse import quote

    raw = [secret.decode("latin-1"), repr(secret)[2:-1], secret.hex(), quote(secret, safe="")]
    return [*raw, base64.b64encode(secret).decode().rstrip("="), base64.urlsafe_b64encode(secret).decode().rstrip("=")]


def derived(secret: str) -> list[bytes]:
    """Every key that is derived for one day, region and service."""
    keys = [b"AWS4" + secret.encode()]
    for message in (f"{NOW:%Y%m%d}", "eu-west-1", "s3", "aws4_request"):
        keys.append(hmac.digest(keys[-1], message.encode(), "sha256"))
    return keys


pytestmark = pytest.mark.usefixtures("aws_home")

CANARIES = [form for secret in (SECRET.encode(), PIN.encode(), *derived(SECRET)) for form in shown_forms(secret)]


def of_exception(exc: BaseException | None, seen: tuple[BaseException, ...] = ()) -> Iterator[str]:
    """Everything that an exception and those behind it show, and what a log of it would."""
    if exc is None or exc in seen:
        return
    yield from (str(exc), repr(exc), repr(exc.args), *map(str, getattr(exc, "__notes__", ())))
    yield "".join(traceback.format_exception(exc))
    for value in vars(exc).values():
        yield repr(value)
    if not exc.__suppress_context__:
        yield from of_exception(exc.__context__, (*seen, exc))
    yield from of_exception(exc.__cause__, (*seen, exc))


def of_frames(exc: BaseException) -> Iterator[str]:
    """What our frames hold in the tracebacks of an exception and of all behind it, also of what is not shown.

    Not the command line's own: what is typed there stands in ``sys.argv`` anyway.
    """
    seen: list[BaseException | None] = [None]
    ahead: list[BaseException | None] = [exc]
    while ahead:
        this = ahead.pop()
        if this is None or this in seen:
            continue
        seen.append(this)
        ahead += [this.__cause__, this.__context__]
        for frame, line in traceback.walk_tb(this.__traceback__):
            file = Path(frame.f_code.co_filename)
            if "aws_hmac" in file.parent.as_posix() and file.parts[-2:] != ("cli", "__init__.py"):
                for name, value in frame.f_locals.items():
                    with suppress(Exception):  # a device's objects may be gone
                        yield f"{file.name}:{line}: {frame.f_code.co_name}: {name} = {value!r}"


class Watch:
    """Collects what is shown."""

    def __init__(self, capsys: pytest.CaptureFixture[str], caplog: LogCaptureFixture) -> None:
        self._capsys = capsys
        self._caplog = caplog
        self.texts: list[str] = []

    def forget(self) -> None:
        """Drops what a test's own preparations have logged."""
        self._caplog.clear()

    def objects(self, *things: object) -> None:
        for thing in things:
            self.texts += [repr(thing), str(thing), f"{thing}", repr([thing]), repr({"x": thing})]

    def attempt(self, call: Callable[[], object], *, frames: bool = True) -> BaseException | None:
        """Runs something that may fail; notes what it raises, warns of, logs, prints and leaves in our frames."""
        failed: BaseException | None = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                call()
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - looked at below
                failed = exc
                self.texts += of_exception(exc)
                self.texts += of_frames(exc) if frames else ()
        self.texts += [str(w.message) for w in caught]
        return failed

    def check(self, *more: str) -> None:
        """Fails if anything that was seen holds a canary."""
        out, err = self._capsys.readouterr()
        formatter = logging.Formatter()
        logged = [formatter.format(record) + repr(vars(record)) for record in self._caplog.records]
        everything = "\n".join([*self.texts, out, err, *logged])
        for canary in (*CANARIES, *more):
            if canary in everything:
                at = everything.index(canary)
                pytest.fail(f"{canary!r} is shown: …{everything[max(0, at - 300) : at + 100]}…")


@pytest.fixture
def watch(capsys: pytest.CaptureFixture[str], caplog: LogCaptureFixture) -> Watch:
    caplog.set_level(logging.DEBUG)
    return Watch(capsys, caplog)


class Failing(HmacBackend):
    """A device that fails."""

    name = "failing"

    def hmac_sha256(self, message: bytes, /) -> bytes:
        raise aws_hmac.DeviceError("failing: the device failed")


def give(monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))


def test_the_watch_sees_a_leak(watch: Watch) -> None:
    def leak() -> None:
        try:
            int(SECRET)
        except ValueError as exc:
            raise Error("harmless") from exc

    watch.attempt(leak)
    with pytest.raises(pytest.fail.Exception, match="is shown"):
        watch.check()


def test_the_watch_sees_what_frames_hold(watch: Watch) -> None:
    namespace: dict[str, Any] = {"Error": Error}
    exec(compile(f"def leak(x={SECRET!r}):\n raise Error('harmless')", "/x/aws_hmac/y.py", "exec"), namespace)
    watch.attempt(namespace["leak"])
    with pytest.raises(pytest.fail.Exception, match=r"y.py:2: leak: x"):
        watch.check()


@pytest.mark.parametrize("key", derived(SECRET), ids=["key", "date", "region", "service", "signing"])
def test_the_watch_sees_a_derived_key(watch: Watch, key: bytes) -> None:
    watch.objects(key)
    with pytest.raises(pytest.fail.Exception, match="is shown"):
        watch.check()


def test_the_watch_sees_a_log_line(watch: Watch) -> None:
    logging.getLogger("aws_hmac.any").debug("key %s", SECRET)
    with pytest.raises(pytest.fail.Exception, match="is shown"):
        watch.check()


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "given",
    [
        SECRET,
        f"{SECRET}\n",
        f"{SECRET} {SECRET}",
        f"{SECRET}\0",
        f"{SECRET}é",
        SECRET * 2000,
    ],
)
def test_key_import(watch: Watch, toy: Path, given: str, debug: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"toy:file={toy}/prod"
    for words, lies in (([], "1"), ([], ""), ([], ""), (["--overwrite"], ""), (["--access-key-id", SECRET], "")):
        monkeypatch.setenv("TOY_LIES", lies)
        give(monkeypatch, given)
        watch.attempt(partial(main, ["key", "import", uri, *words, *debug]))
    watch.attempt(lambda: main(["key", "check", uri, *debug]))
    watch.attempt(lambda: main(["key", "check", uri, "--json", *debug]))
    watch.attempt(lambda: main(["key", "list", "toy:", *debug]))
    watch.attempt(lambda: main(["key", "delete", uri, "--yes", *debug]))
    for given_to_library in ({}, {"overwrite": True}, {"access_key_id": "ASIAX"}):
        watch.attempt(partial(aws_hmac.import_key, uri, given, **given_to_library))
    watch.attempt(partial(aws_hmac.import_key, "memory:env=X", given))
    watch.check()


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "words",
    [
        [SECRET],
        [f"memory:env={SECRET[:3]};secret={SECRET}"],
        [f"pkcs11:token=a;object=b?pin-value={PIN}"],
        [f"pkcs11:token=a;object=b?pin-source={PIN}"],
        ["toy:file=/x", SECRET],
        ["toy:file=/x", f"--secret={SECRET}"],
    ],
)
def test_a_secret_in_the_wrong_place(watch: Watch, toy: Path, words: list[str], debug: list[str]) -> None:
    for command in ("import", "check", "list", "delete"):
        watch.attempt(partial(main, ["key", command, *words, *debug]))
    watch.attempt(lambda: main(["doctor", "--offline", *words, *debug]))
    watch.attempt(lambda: main(["configure", "--access-key-id", ID, "--key", *words, *debug]))
    # A caller who takes a secret for a URI has it in frames of their own.
    watch.attempt(lambda: aws_hmac.open_backend(words[0]), frames=False)
    watch.attempt(lambda: aws_hmac.import_key(words[0], SECRET), frames=False)
    watch.check()


@pytest.mark.parametrize(
    "text",
    [
        f"Access key ID,Secret access key\n{ID},{SECRET}\n",
        f"{ID},{SECRET}\n",
        f"{SECRET}\n",
        f"Access key ID,Secret access key\n{ID},{SECRET},{SECRET}\n",
        f"Access key ID,Secret access key\n{ID},{SECRET}\nAKIAB,{SECRET}\n",
        f'Access key ID,Secret access key\n{ID},"{SECRET}\n',
        f"\0{SECRET}",
    ],
)
def test_csv(watch: Watch, toy: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "accessKeys.csv"
    file.write_text(text)
    watch.attempt(lambda: main(["key", "import", f"toy:file={toy}/a", "--csv", str(file)]))
    watch.attempt(lambda: main(["key", "import", f"toy:file={toy}/b", "--csv", str(file), "--debug"]))
    watch.attempt(lambda: watch.objects(from_csv(file, None)), frames=False)  # main clears them
    file.write_bytes(text.encode() + b"\xff")
    watch.attempt(lambda: main(["key", "import", f"toy:file={toy}/c", "--csv", str(file), "--debug"]))
    watch.check()


@pytest.mark.parametrize(
    "text",
    [
        f"[old]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n",
        f"[old]\naws_secret_access_key = {SECRET}\n",
        f"[old]\n{SECRET}\n",
        f"{SECRET}\n",
        f"[{SECRET}\n",
        f"[old]\n{SECRET} = 1\n{SECRET} = 2\n",
        f"[old]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\naws_session_token = {SECRET}\n",
    ],
)
@pytest.mark.parametrize("name", ["credentials", "config"])
def test_aws_files(watch: Watch, toy: Path, aws_home: Path, text: str, name: str) -> None:
    aws_home.mkdir()
    if name == "config":
        text = text.replace("[old]", "[profile old]")
    for data in (text.encode(), text.encode() + b"\xff"):
        (aws_home / name).write_bytes(data)
        for words in (
            ["key", "import", f"toy:file={toy}/a", "--from-profile", "old"],
            ["configure", "--profile", "old", "--key", "memory:env=X", "--access-key-id", ID],
            ["key", "check", "--profile", "old"],
            ["doctor", "--offline", "--profile", "old"],
        ):
            watch.attempt(partial(main, words))
            watch.attempt(partial(main, [*words, "--debug"]))
        watch.attempt(partial(load_profile, "old"))
    watch.check()


def test_reprs(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)

    def show() -> None:
        backend = aws_hmac.open_backend("memory:env=SECRET")
        signer = Signer(ID, backend, session_token=SECRET)
        signer.sign("GET", "https://sts.eu-west-1.amazonaws.com/", service="sts", region="eu-west-1")
        key = signer.keys.signing_key(f"{NOW:%Y%m%d}", "eu-west-1", "s3")
        key.sign(b"message")
        watch.objects(backend, signer, signer.keys, key, aws_hmac.KeyURI.parse("memory:env=SECRET"))
        watch.objects(AccessKey(ID, SECRET), demo.Key(ID, SECRET))
        watch.objects(sts.TemporaryCredentials(ID, SECRET, SECRET, NOW))
        watch.objects(Options({"key": "memory:env=SECRET", "access_key_id": ID}, what="options"))
        explained = signer.explain("GET", "https://sts.eu-west-1.amazonaws.com/", service="sts", region="eu-west-1")
        watch.objects(explained._replace(canonical_request="", string_to_sign=""))
        fingerprint(backend)

    assert watch.attempt(show) is None
    watch.check()


@pytest.mark.parametrize("cache", ["date", "scope", "none"])
def test_signing(watch: Watch, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good and bad requests; the logs tell the date that was asked for, and no key."""
    monkeypatch.setenv("SECRET", SECRET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signer = Signer(ID, aws_hmac.open_backend("memory:env=SECRET"), cache=cache, session_token=SECRET)
    where: Any = {"service": "s3", "region": "eu-west-1", "at": NOW}
    signed = signer.sign("GET", "https://s3.eu-west-1.amazonaws.com/a?b=c", **where)
    assert signed["Authorization"].endswith(  # the canaries are of the day, region and service that sign
        hmac.digest(
            derived(SECRET)[-1],
            signer.explain("GET", "https://s3.eu-west-1.amazonaws.com/a?b=c", **where).string_to_sign.encode(),
            "sha256",
        ).hex()
    )
    for this in (signer, Signer(ID, Failing(), cache=cache, session_token=SECRET)):
        for url in ("https://s3.eu-west-1.amazonaws.com/a?b=c", "no url", "https://u:p@h/"):
            # The session token is in the caller's hands and in the request; the secret and what is derived is not.
            found = watch.attempt(partial(this.sign, "GET", url, **where), frames=False)
            also = watch.attempt(partial(this.presign, "GET", url, expires=60, **where), frames=False)
            held = "\n".join(text for exc in (found, also) if exc is not None for text in of_frames(exc))
            assert not [key for key in derived(SECRET) for form in shown_forms(key) if form in held]
            watch.objects(this, this.keys)
    watch.check()


def test_sts(watch: Watch, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted and refused calls: neither the long-lived nor the temporary secret is shown."""
    user = moto_server.create_user()
    role = moto_server.create_role()
    watch.forget()
    where: Any = {"region": "eu-west-1", "endpoint_url": moto_server.url}
    monkeypatch.setenv("RIGHT", user.secret_access_key)
    monkeypatch.setenv("SECRET", SECRET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = Signer(user.access_key_id, aws_hmac.open_backend("memory:env=RIGHT"))
        wrong = Signer(user.access_key_id, aws_hmac.open_backend("memory:env=SECRET"))
    got: list[sts.TemporaryCredentials] = []

    def assume(signer: Signer) -> None:
        got.append(sts.assume_role(signer, role_arn=role, **where))

    assert watch.attempt(lambda: assume(right)) is None
    assert isinstance(watch.attempt(lambda: assume(wrong)), aws_hmac.STSError)
    assert isinstance(watch.attempt(lambda: sts.get_caller_identity(wrong, **where)), aws_hmac.STSError)
    watch.attempt(lambda: sts.assume_role(right, role_arn="nonsense", **where))
    watch.attempt(lambda: sts.get_caller_identity(right, region="eu-west-1", endpoint_url="http://127.0.0.1:1"))
    watch.objects(got, got[0])
    chained = Signer(
        got[0].access_key_id, aws_hmac.open_backend("memory:env=SECRET"), session_token=got[0].session_token
    )
    watch.attempt(lambda: sts.get_caller_identity(chained, **where))
    secrets = (user.secret_access_key, got[0].secret_access_key, got[0].session_token)
    watch.check(*(form for secret in secrets for form in shown_forms(secret.encode())))


@pytest.fixture
def prod(moto_server: MotoServer, aws_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A profile whose key is right, and one named ``wrong`` whose key is not; returns the right secret."""
    user = moto_server.create_user()
    role = moto_server.create_role()
    monkeypatch.setenv("RIGHT", user.secret_access_key)
    monkeypatch.setenv("WRONG", SECRET)
    for name in ("right", "wrong"):
        words = ["--profile", name, "--key", f"memory:env={name.upper()}", "--access-key-id", user.access_key_id]
        words += ["--role-arn", role, "--region", "eu-west-1", "--endpoint-url", moto_server.url]
        assert main(["configure", *words]) == 0
    return user.secret_access_key


def test_credential_process(
    watch: Watch, prod: str, aws_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it prints is for the SDK alone: neither its errors, nor its logs, nor its warnings hold any of it."""
    watch.forget()
    capsys.readouterr()
    secrets = [prod]
    for _ in range(2):  # from STS, then from the cache
        watch.attempt(partial(main, ["credential-process", "--profile", "right", "--debug"]))
        out, err = capsys.readouterr()
        document = json.loads(out)
        secrets += [document["SecretAccessKey"], document["SessionToken"]]
        watch.texts.append(err)
    assert isinstance(
        watch.attempt(partial(main, ["credential-process", "--profile", "wrong", "--debug"])), aws_hmac.STSError
    )
    watch.attempt(partial(main, ["credential-process", "--profile", "wrong"]))
    folder = Path(_session_files.folder())
    for file in folder.iterdir():
        if file.suffix == ".session":
            file.write_text(file.read_text()[:-30] + "\xff")
    folder.chmod(0o755)
    watch.attempt(partial(main, ["doctor", "--offline"]))
    watch.texts += capsys.readouterr()
    watch.attempt(partial(main, ["credential-process", "--profile", "right"]))  # the cache is open to others: warned of
    out, err = capsys.readouterr()
    document = json.loads(out)
    secrets += [document["SecretAccessKey"], document["SessionToken"]]
    watch.texts.append(err)
    (aws_home / "config").write_bytes((aws_home / "config").read_bytes() + b"\xff")
    watch.attempt(partial(main, ["credential-process", "--profile", "right", "--debug"]))
    watch.check(*(form for secret in secrets for form in shown_forms(secret.encode())))


@pytest.mark.parametrize("mode", ["session", "direct"])
def test_session(watch: Watch, moto_server: MotoServer, prod: str, mode: Any, caplog: LogCaptureFixture) -> None:
    """A boto3 session of ours; botocore's own debug log, which shows each request's headers, is not ours to change."""
    key_id = Options({"key": "memory:env=RIGHT", "access_key_id": "A"}, what="options")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = aws_hmac.Session(profile_name="right") if mode == "session" else None
        user = moto_server.create_user()
        signer = Signer(user.access_key_id, aws_hmac.open_backend("memory:env=RIGHT"))
        session = named or aws_hmac.Session(signer=signer, mode="direct", region_name="eu-west-1")
    watch.forget()
    client = session.client("sts", endpoint_url=moto_server.url)
    watch.attempt(client.get_caller_identity)
    credentials: Any = session.get_credentials()
    watch.objects(session, client, credentials, key_id, signer, signer.keys)
    secrets = [prod, user.secret_access_key]
    if mode == "session":
        frozen = credentials.get_frozen_credentials()
        secrets += [frozen.secret_key, frozen.token]
    else:
        watch.attempt(lambda: credentials.secret_key)
    caplog.handler.records[:] = [r for r in caplog.records if r.name.startswith("aws_hmac")]
    watch.check(*(form for secret in secrets for form in shown_forms(secret.encode())))


def test_wrong_pin(watch: Watch, softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real token: the right PIN, a wrong one, none."""
    pin = softhsm_token.pin
    give(monkeypatch, SECRET)
    uri = softhsm_token.uri()
    assert watch.attempt(lambda: main(["key", "import", uri, "--access-key-id", ID])) is None
    assert watch.attempt(lambda: main(["key", "check", uri])) is None
    monkeypatch.setenv("WRONG", PIN)
    parsed = aws_hmac.KeyURI.parse(uri)
    wrong = str(aws_hmac.KeyURI(parsed.scheme, parsed.path, {**parsed.query, "pin-source": "env:WRONG"}))
    for command in (["key", "check", wrong], ["key", "list", wrong], ["doctor", "--offline", wrong]):
        watch.attempt(partial(main, command))
        watch.attempt(partial(main, [*command, "--debug"]))
    watch.check(*shown_forms(pin.encode()))


def test_the_forms_are_what_they_say() -> None:
    assert set(forms(SECRET).values()) >= {SECRET.encode(), base64.b64encode(SECRET.encode()), derived(SECRET)[0]}
    assert hashlib.sha256(SECRET.encode()).hexdigest() not in CANARIES
