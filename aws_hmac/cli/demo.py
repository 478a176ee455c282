"""Show the whole of it on this machine: a secret goes into a device, working credentials come out.

A throw-away SoftHSM token stands in for the HSM, a local moto server, which verifies every signature, for AWS.
Nothing leaves this machine and nothing is left behind. Needs softhsm2, opensc and moto[server]; ends with
status 1 as soon as a step fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, NamedTuple

from aws_hmac.cli import demo_programs
from aws_hmac.cli.interrupts import Interrupts
from aws_hmac.errors import Error, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from aws_hmac._softhsm import SoftHSMToken

REGION = "us-east-1"

SERVER_TIMEOUT = 60
"""Seconds that the local AWS may take to start: on a busy machine moto takes many."""

CHILD_TIMEOUT = 120
"""Seconds that any other process may take."""


class StepError(Error):
    """A step did not prove what it should."""


class Key(NamedTuple):
    """The IAM user's access key, which the administrator made."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"Key({self.access_key_id!r}, …)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this command's arguments: none."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Runs every step; ends and cleans up at the first that fails."""
    del args
    show = Show()
    tools = _tools()
    show.text("Everything here is throw-away and stays on this machine.")
    failed: list[str] = []
    demo: Demo | None = None
    with Interrupts() as interrupts:
        try:
            with interrupts.held():
                demo = Demo(Path(tempfile.mkdtemp(prefix="aws-hmac-demo-")), show, tools, interrupts)
            demo.run()
        except Error as exc:
            failed.append(str(exc))
        finally:
            with interrupts.held(forever=True):
                if demo is not None and not demo.clean_up():
                    failed.append(f"{demo.folder} could not be removed")
    for text in failed:
        show.failed(text)
    if not failed:
        show.text("\nNothing is left: token, keys, server, profile and session cache are gone.")
    return 1 if failed else 0


class Show:
    """Prints the steps."""

    def __init__(self) -> None:
        from aws_hmac.cli.output import console

        self._out = console()
        self._step = 0
        self._start = time.monotonic()

    def text(self, text: str) -> None:
        """Prints a line of its own."""
        self._out.print(text)

    def step(self, title: str) -> None:
        """Begins a step."""
        from rich.text import Text

        self._step += 1
        self._start = time.monotonic()
        self._out.print(Text.assemble("\n", (f"{self._step}. {title}", "bold")))

    def command(self, words: Sequence[str]) -> None:
        """Shows a command as one would type it."""
        from rich.text import Text

        self._out.print(Text.assemble("   $ ", (" ".join(map(quote, words)), "cyan")))

    def result(self, text: str) -> None:
        """Shows what came out."""
        from aws_hmac.cli.output import clean

        self._out.print(f"   {clean(text)}")

    def proven(self, text: str) -> None:
        """Ends a step: what it proves."""
        from rich.text import Text

        self._out.print(
            Text.assemble("   ", ("✓", "green"), f" {text}", (f"  ({time.monotonic() - self._start:.1f} s)", "dim"))
        )

    def failed(self, text: str) -> None:
        """Ends a step that failed."""
        from rich.text import Text

        from aws_hmac.cli.output import clean

        self._out.print(Text.assemble("   ", ("✗ " + clean(text), "bold red")))


class Demo:
    """The steps, in order; each leaves what the next needs."""

    def __init__(self, folder: Path, show: Show, tools: Tools, interrupts: Interrupts) -> None:
        self.folder = folder
        self.show = show
        self.tools = tools
        self.interrupts = interrupts
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = _environment(folder)
        self.endpoint = ""
        self.role = ""
        self.key = Key("", "")
        self.uri = ""

    def run(self) -> None:
        """Runs every step.

        Raises:
            Error: a step failed.
        """
        log = self.folder / "moto.log"
        server = self._start_server(log)
        token = self.make_token()
        self.make_account(server, log)
        self.import_key()
        self.check_key()
        signer = self.signed_get()
        self.assume_role()
        self.credential_process()
        self.wrong_key(token)
        self.search_memory(signer)

    def clean_up(self) -> bool:
        """Ends every process and removes every file; False where one stays."""
        for process in reversed(self.processes):
            _end(process)
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()

    def make_token(self) -> SoftHSMToken:
        """A device."""
        from aws_hmac._softhsm import make_token

        self.show.step("A device: a throw-away SoftHSM token stands in for the HSM")
        with self.interrupts.held():
            token = make_token(self.folder / "token", "demo")
        self.environment.update(token.environment)
        self.uri = token.uri("prod")
        self.show.proven(f"it is there and empty: {self._command_output('key', 'list', token.uri(None))[0]}")
        return token

    def make_account(self, server: subprocess.Popen[bytes], log: Path) -> None:
        """An AWS that verifies signatures, with a user, a role and an access key."""
        self.show.step("An AWS: a local moto server that verifies every signature")
        self.endpoint = _address(server, log)
        self.environment["AWS_ENDPOINT_URL"] = self.endpoint
        access_key_id, secret, self.role, refused = json.loads(self._python(demo_programs.ADMINISTRATOR)[-1])
        self.key = Key(access_key_id, secret)
        self.show.result(f"it listens at {self.endpoint}; an administrator made the user 'demo', {self.role},")
        self.show.result(f"and the access key {access_key_id}")
        if refused is None:
            raise StepError("the server accepts a signature by an unknown key: it verifies nothing")
        self.show.proven(f"a request by an unknown key is refused: {refused}")

    def import_key(self) -> None:
        """The secret goes in."""
        from aws_hmac.backend import fingerprint_of

        self.show.step("The user's secret access key goes into the device, by standard input")
        self.uri = self._import(self.uri, self.key)
        expected = fingerprint_of(b"AWS4" + self.key.secret_access_key.encode()).hex()
        # Asked of the device by a new process, which never had the secret.
        found = json.loads(self._run([self.tools.command, "key", "check", self.uri, "--json"]))["fingerprint"]
        if found != expected:
            raise StepError("the device computes with another key than was imported")
        self.show.proven(f'the device computes HMACs with "AWS4" + secret: fingerprint {expected} here and there')

    def check_key(self) -> None:
        """What protects it."""
        self.show.step("What protects the key in the device")
        words = ["key", "check", self.uri, "--sts", "--access-key-id", self.key.access_key_id, "--region", REGION]
        lines = self._command_output(*words, "--endpoint-url", self.endpoint)
        for line in lines:
            self.show.result(line)
        self.show.proven("nothing that would have to be mended, and AWS accepts its signatures")

    def signed_get(self) -> subprocess.Popen[bytes]:
        """Identity by a GET that is signed by hand; the process lives on."""
        self.show.step("A GET request, signed by the device: who am I?")
        process = self._popen(demo_programs.IDENTITY, self.uri, self.key.access_key_id, self.endpoint)
        status, body = self._line_of(process).split(" ", 1)
        arn = _between(body, "<Arn>", "</Arn>")
        if status != "200" or not arn.endswith(":user/demo"):
            raise StepError(f"STS answered {status}: {body[:300]}")
        self.show.result(f"headers = signer.sign('GET', '{self.endpoint}/?Action=GetCallerIdentity…', …)")
        self.show.result(f"{status} {arn}")
        self.show.proven("AWS accepts a signature whose secret this process never had")
        return process

    def assume_role(self) -> None:
        """Temporary credentials."""
        self.show.step("AssumeRole, signed by the device: temporary credentials")
        words = self._python(demo_programs.ASSUME_ROLE, self.uri, self.key.access_key_id, self.endpoint, self.role)[
            -1
        ].split()
        self.show.result(f"aws_hmac.sts.assume_role(signer, role_arn='{self.role}')")
        self.show.result(f"{words[0]} until {words[1]}")
        if not words[0].startswith("ASIA"):
            raise StepError(f"{words[0]} is no temporary key")
        self.show.proven("sessions need no secret either")

    def credential_process(self) -> None:
        """Any SDK."""
        self.show.step("A stock boto3, which knows nothing of aws-hmac, by credential_process")
        words = ["configure", "--profile", "demo", "--key", self.uri, "--access-key-id", self.key.access_key_id]
        words += ["--role-arn", self.role, "--region", REGION, "--endpoint-url", self.endpoint]
        for line in self._command_output(*words)[:1]:
            self.show.result(line)
        body = f"signed by a device at {time.strftime('%H:%M:%S')}"
        arn, got, knows = self._python(demo_programs.STOCK_BOTO3, body)
        self.show.result("boto3.Session(profile_name='demo').client('sts').get_caller_identity()")
        self.show.result(arn)
        if ":assumed-role/deploy/" not in arn or knows != "False":
            raise StepError(f"boto3 is {arn}, not the role")
        self.show.result("….client('s3').put_object(…); ….client('s3').get_object(…)")
        self.show.result(got)
        if got != body:
            raise StepError("S3 gave back something else than was put")
        self.show.proven("every SDK and the AWS CLI work so: S3 took the object and gave it back")

    def wrong_key(self, token: SoftHSMToken) -> None:
        """The twin that must fail."""
        import secrets

        self.show.step("The same GET with another key in the device")
        wrong = Key(self.key.access_key_id, secrets.token_urlsafe(30))
        uri = self._import(token.uri("wrong"), wrong)
        process = self._popen(demo_programs.IDENTITY, uri, wrong.access_key_id, self.endpoint)
        status, body = self._line_of(process).split(" ", 1)
        code = _between(body, "<Code>", "</Code>")
        self.show.result(f"{status} {code}")
        if status != "403" or code != "SignatureDoesNotMatch":
            raise StepError(f"a signature by the wrong key was not refused: {status} {body[:300]}")
        self.show.proven("it is refused: the signatures above were really verified")

    def search_memory(self, signer: subprocess.Popen[bytes]) -> None:
        """The secret is nowhere."""
        from aws_hmac.cli.memory_scan import forms, scan

        self.show.step("The memory of the process that signed the GET, searched for the secret")
        if not Path("/proc/self/mem").exists():
            raise StepError("this system has no /proc/PID/mem: run the demo on Linux to see this step")
        control = self._popen(demo_programs.CONTROL)
        assert control.stdin is not None
        control.stdin.write(self.key.secret_access_key.encode() + b"\n")
        control.stdin.flush()
        self._line_of(control)
        texts = forms(self.key.secret_access_key)
        for process, who in ((signer, "the signer, started after the import"), (control, "a control that holds it")):
            if process.poll() is not None:
                raise StepError(f"{who} has ended: there is no memory to search")
            found = scan(process.pid, texts)
            hits = ", ".join(f"{name} {count}×" for name, count in found.hits.items())
            self.show.result(f"{who}: {found.size / 2**20:.0f} MiB searched: {hits}")
            if process is signer and any(found.hits.values()):
                raise StepError("the secret is in the memory of the signer")
            if process is control and not all(found.hits.values()):
                raise StepError("the search does not find what is there")
        self.show.proven("0 hits in the signer; the same search finds all of them where they are")

    def _import(self, uri: str, key: Key) -> str:
        words = ["key", "import", uri, "--access-key-id", key.access_key_id]
        self.show.command(["aws-hmac", *words])
        text = self._run([self.tools.command, *words, "--json"], standard_input=key.secret_access_key)
        return str(json.loads(text)["uri"])

    def _command_output(self, *words: str) -> list[str]:
        self.show.command(["aws-hmac", *words])
        return self._run([self.tools.command, *words]).splitlines()

    def _python(self, program: str, *words: str) -> list[str]:
        return self._run([sys.executable, "-c", program, *words]).splitlines()

    def _run(self, words: Sequence[str], *, standard_input: str = "") -> str:
        process = self._start(words)
        try:
            out, err = process.communicate(standard_input.encode(), timeout=CHILD_TIMEOUT)
        except subprocess.TimeoutExpired:
            # "from None": the exception would hold what the program has printed so far.
            raise StepError(f"{Path(words[0]).name} {words[1]} did not end within {CHILD_TIMEOUT} s") from None
        if process.returncode:
            said = (err.decode().strip() or out.decode().strip() or "nothing").splitlines()
            raise StepError(f"{Path(words[0]).name} {words[1]} ended with status {process.returncode}: {said[-1]}")
        return out.decode()

    def _popen(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        return self._start([sys.executable, "-c", program, *words])

    def _start(
        self, words: Sequence[str], *, log: IO[bytes] | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        with self.interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own programs
                words,
                env=self.environment | environment,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log or subprocess.PIPE,
                stderr=log or subprocess.PIPE,
                start_new_session=True,  # so that it can be ended with what it starts, as SDKs do credential_process
            )
            self.processes.append(process)
        return process

    def _line_of(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        assert process.stderr is not None
        end = threading.Timer(CHILD_TIMEOUT, process.kill)
        end.start()
        try:
            line = process.stdout.readline().decode()
        finally:
            end.cancel()
        if not line:
            said = process.stderr.read().decode(errors="replace").strip().splitlines() or ["nothing"]
            raise StepError(f"a process ended before it answered: {said[-1]}")
        return line.strip()

    def _start_server(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            words = [self.tools.server, "-H", "127.0.0.1", "-p", "0"]
            return self._start(words, log=file, INITIAL_NO_AUTH_ACTION_COUNT="5")


class Tools(NamedTuple):
    """The programs that are run."""

    command: str
    server: str


def _tools() -> Tools:
    """Finds everything that is needed, and says at once all that is missing."""
    from aws_hmac.cli.configure import command_path

    missing = [
        install
        for program, install in (
            ("softhsm2-util", "apt-get install softhsm2"),
            ("pkcs11-tool", "apt-get install opensc"),
        )
        if shutil.which(program) is None
    ]
    beside = Path(sys.executable).parent / "moto_server"
    server = str(beside) if beside.exists() else shutil.which("moto_server")
    packages = [name for name, there in (("'moto[server]'", server), ("boto3", find_spec("boto3"))) if not there]
    if find_spec("pkcs11") is None:
        packages.append("'aws-hmac[pkcs11]'")
    if packages:
        missing.append(f"pip install {' '.join(packages)}")
    if missing or server is None:
        raise UnsupportedError(f"the demo needs programs that are not installed; do: {'; '.join(missing)}")
    return Tools(command_path(), server)


def _environment(folder: Path) -> dict[str, str]:
    """An environment in which nothing of the user's is seen or touched."""
    theirs = ("AWS_", "MOTO_", "SOFTHSM2_", "XDG_", "BOTO")
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs) and k.lower() not in proxies}
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    return kept | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": REGION,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + SERVER_TIMEOUT
    while time.monotonic() < deadline:
        said = log.read_text(errors="replace")
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", said)
        if found:
            return found[1]
        if server.poll() is not None:
            last = (said.strip().splitlines() or ["nothing"])[-1]
            raise StepError(f"moto_server ended with status {server.returncode}: {last}")
        time.sleep(0.05)
    raise StepError(f"moto_server did not start within {SERVER_TIMEOUT} s")


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends one of our processes and those that it started, and waits until they are gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            for _ in range(500):
                os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.01)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
