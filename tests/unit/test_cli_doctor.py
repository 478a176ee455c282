"""Each fault is made, found, its mend carried out as it is printed, and then it is gone."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aws_hmac.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
FOLDER = Path(sys.executable).parent


@pytest.fixture
def uri(toy: Path) -> str:
    (toy / "prod").write_bytes(b"AWS4" + SECRET.encode())
    return f"toy:file={toy}/prod"


@pytest.fixture
def config(aws_home: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A machine on which nothing is wrong."""
    monkeypatch.setenv("PATH", f"{FOLDER}{os.pathsep}{os.environ['PATH']}")
    configure(uri)
    capsys.readouterr()
    return aws_home / "config"


def configure(uri: str, *words: str) -> None:
    command = ["configure", "--profile", "prod", "--key", uri, "--access-key-id", ID]
    assert main([*command, "--region", "eu-west-1", *words]) == 0


def findings(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    capsys.readouterr()
    status = main(["doctor", "--offline", "--json", *words])
    found: list[dict[str, str]] = json.loads(capsys.readouterr().out)
    assert status == (1 if any(f["level"] == "bad" for f in found) else 0)
    return found


def faults(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, str]]:
    """What is bad or warned of, but for backends whose extras this machine lacks."""
    return [f for f in findings(capsys, *words) if f["level"] in ("bad", "warning") and f["area"] != "installation"]


def carry_out(mend: str, monkeypatch: pytest.MonkeyPatch, *, editor: str = "false") -> None:
    """Runs a mend as it is printed, in a shell; what it unsets there is unset here."""
    if mend.startswith("unset "):
        for name in mend.split()[1:]:
            monkeypatch.delenv(name)
        return
    environment = {**os.environ, "EDITOR": editor}
    command = re.sub(r"^.*, in: ", "", mend)
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (command, done.stderr)


def test_nothing_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(capsys) == []
    good = {(f["area"], f["subject"]) for f in findings(capsys) if f["level"] == "good"}
    assert {("files", "profile prod"), ("keys", "profile prod: key"), ("installation", "backend toy")} <= good
    main(["doctor", "--offline"])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line[0] not in "✓·!✗ "][:5] == [
        "Installation",
        "Files",
        "Environment",
        "Session cache",
        "Keys",
    ]
    assert "\x1b" not in out


def writable_config(config: Path) -> None:
    config.chmod(0o622)


def unreadable_config(config: Path) -> None:
    config.write_bytes(config.read_bytes() + b"[profile \xff]\n")


def broken_config(config: Path) -> None:
    config.write_text(config.read_text() + "[profile x\n")


def broken_credentials(config: Path) -> None:
    (config.parent / "credentials").write_text("[profile x\n")
    (config.parent / "credentials").chmod(0o600)


def wrong_option(config: Path) -> None:
    config.write_text(config.read_text().replace("access_key_id", "acess_key_id"))


def pin_in_the_uri(config: Path) -> None:
    config.write_text(re.sub("key = .*", "key = pkcs11:token=a;object=b?pin-value=1234", config.read_text()))


def readable_credentials(config: Path) -> None:
    (config.parent / "credentials").write_text("[other]\naws_access_key_id = AKIA\naws_secret_access_key = hush\n")
    (config.parent / "credentials").chmod(0o644)


def plaintext_credentials(config: Path) -> None:
    path = config.parent / "credentials"
    path.write_text(f"[prod]\naws_access_key_id = {ID}\naws_secret_access_key = hush\n")
    path.chmod(0o600)


def plaintext_config(config: Path) -> None:
    config.write_text(f"{config.read_text()}aws_access_key_id = {ID}\naws_secret_access_key = hush\n")


def role_outside(config: Path) -> None:
    config.write_text(config.read_text() + "role_arn = arn:aws:iam::111122223333:role/x\nsource_profile = y\n")


def command_gone(config: Path) -> None:
    config.write_text(config.read_text().replace(f"{FOLDER}/aws-hmac", "/opt/gone/aws-hmac"))


def command_not_absolute(config: Path) -> None:
    config.write_text(config.read_text().replace(f"{FOLDER}/aws-hmac", "aws-hmac"))


def command_unreadable(config: Path) -> None:
    config.write_text(config.read_text().replace(f"{FOLDER}/aws-hmac", "'aws-hmac"))


def direct_with_process(config: Path) -> None:
    config.write_text(config.read_text() + "  mode = direct\n")


def open_cache(config: Path) -> None:
    folder = cache(config)
    folder.mkdir(parents=True)
    folder.chmod(0o755)


def linked_cache(config: Path) -> None:
    cache(config).parent.mkdir()
    (config.parent / "elsewhere").mkdir(mode=0o700)
    cache(config).symlink_to(config.parent / "elsewhere")


def cache_is_a_file(config: Path) -> None:
    cache(config).parent.mkdir()
    cache(config).write_text("")


def cache(config: Path) -> Path:
    return config.parent.parent / "xdg_runtime_dir" / "aws-hmac"


def no_toy_box(config: Path) -> None:
    folder = Path(os.environ["TOY_FOLDER"])
    (folder / "prod").rename(folder.parent / "kept")
    folder.rmdir()


@pytest.mark.parametrize(
    ("make", "area", "said", "editor"),
    [
        (writable_config, "files", "others can write it, and have programs run as you", None),
        (unreadable_config, "files", "is not UTF-8", "$d"),
        (broken_config, "files", "neither [section] nor name = value", "$d"),
        (broken_credentials, "files", "line 1: neither [section] nor name", "d"),
        (wrong_option, "files", "did you mean 'access_key_id'?", "s/acess/access/"),
        (pin_in_the_uri, "files", "would put a secret into the URI", "s!=.pkcs11:.*!=toy:file=/x!"),
        (readable_credentials, "files", "others can read its secrets", None),
        (plaintext_credentials, "files", "still holds its plaintext key", "/^aws_[as]/d"),
        (plaintext_config, "files", "still holds its plaintext key", "/^aws_[as]/d"),
        (role_outside, "files", "role_arn stands outside the aws_hmac block", "/^role_arn\\|^source/d"),
        (command_gone, "files", "names /opt/gone/aws-hmac, which is not there", None),
        (command_not_absolute, "files", "names aws-hmac without its path", None),
        (command_unreadable, "files", "credential_process cannot be read", None),
        (direct_with_process, "files", "mode = direct makes no credentials", None),
        (open_cache, "session cache", "is open to others", None),
        (linked_cache, "session cache", "symbolic link", None),
        (cache_is_a_file, "session cache", "is no folder", None),
        (no_toy_box, "keys", "is missing", None),
    ],
)
def test_a_fault_is_found_and_mended(
    config: Path,
    make: Callable[[Path], None],
    area: str,
    said: str,
    editor: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(config)
    found = [f for f in faults(capsys) if f["area"] == area and said in f["text"]]
    assert len(found) == 1, faults(capsys)
    assert "hush" not in json.dumps(found)
    assert "1234" not in json.dumps(found)
    assert found[0]["mend"]
    script = config.parent / "editor"
    script.write_text(f'#!/bin/sh\nexec sed -i.bak {shlex.quote(editor)} "$@"\n' if editor else "#!/bin/false\n")
    script.chmod(0o755)
    carry_out(found[0]["mend"], monkeypatch, editor=str(script))
    if make is pin_in_the_uri:
        assert [f for f in faults(capsys) if said in f["text"]] == []
        return
    if make is no_toy_box:
        (Path(os.environ["TOY_FOLDER"]).parent / "kept").rename(Path(os.environ["TOY_FOLDER"]) / "prod")
    assert faults(capsys) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": "hush"}, "SDKs take it before the profile"),
        ({"AWS_PROFILE": "none"}, "names a profile that is not there"),
        ({"AWS_DEFAULT_PROFILE": "none"}, "names a profile that is not there"),
        ({"AWS_CONFIG_FILE": "/nowhere/config"}, "AWS_CONFIG_FILE names a file that is not there"),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/nowhere/c"}, "AWS_SHARED_CREDENTIALS_FILE names a file"),
    ],
)
def test_a_fault_of_the_environment(
    config: Path,
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (found,) = [f for f in faults(capsys) if f["area"] == "environment"]
    assert said in found["text"]
    assert "hush" not in found["text"]
    carry_out(found["mend"], monkeypatch)
    assert faults(capsys) == []


def test_a_missing_key(
    config: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "prod").unlink()
    (found,) = faults(capsys)
    assert (found["level"], found["subject"]) == ("bad", "profile prod: key")
    assert "there is no such key" in found["text"]
    done = subprocess.run(
        [FOLDER / "aws-hmac", "key", "import", f"toy:file={toy}/prod"], input=SECRET, text=True, check=False
    )
    assert done.returncode == 0
    assert faults(capsys) == []


def test_a_profile_that_is_not_there(
    config: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = faults(capsys, "--profile", "next")
    assert "has no such profile" in found["text"]
    carry_out(found["mend"].replace("KEY_URI", uri).replace(" ID", f" {ID}"), monkeypatch)
    assert faults(capsys, "--profile", "next") == []
    config.write_text(config.read_text() + "[profile bare]\nregion = x\n")
    (found,) = faults(capsys, "--profile", "bare")
    assert "it has no aws_hmac block" in found["text"]


def test_only_one_profile_or_key(config: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(
        config.read_text() + f"[profile b]\naws_hmac =\n  key = toy:file={toy}/none\n  access_key_id = A\n"
    )
    assert [f["subject"] for f in faults(capsys)] == ["profile b: key"]
    assert faults(capsys, "--profile", "prod") == []
    assert [f["subject"] for f in faults(capsys, "--profile", "b")] == ["profile b: key"]
    keys = [f for f in findings(capsys, f"toy:file={toy}/prod") if f["area"] == "keys"]
    assert [f["subject"] for f in keys] == ["toy box", "key"]
    assert [f["subject"] for f in faults(capsys, f"toy:file={toy}/none")] == ["key"]


def test_a_key_that_would_ask_is_not_opened_unless_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(
        re.sub("key = .*", "key = pkcs11:token=a;object=b?pin-source=prompt", config.read_text(), count=1)
    )
    (found,) = [f for f in findings(capsys) if f["area"] == "keys"]
    assert found["level"] == "info"
    assert "would ask for something" in found["text"]


def test_a_missing_extra(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Matters only to those who use it; installing it, here by taking the block away, mends it."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "hvac.py").write_text("raise ModuleNotFoundError(\"No module named 'hvac'\", name='hvac')\n")
    program = "import sys; from aws_hmac.cli import main; sys.exit(main(sys.argv[1:]))"
    path = os.pathsep.join([str(blocked), os.environ["PYTHONPATH"]])

    def vault(path: str, *words: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", program, "doctor", "--offline", "--json", *words],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return next(f for f in json.loads(done.stdout) if f["subject"] == "backend vault")

    found = vault(path)
    assert (found["level"], found["mend"]) == ("info", "pip install 'aws-hmac[vault]'")
    assert vault(path, "vault:key=a?addr=http://127.0.0.1:1")["level"] == "bad"
    assert vault(os.environ["PYTHONPATH"])["level"] == "good"


def test_a_backend_that_cannot_be_loaded_or_looked_at(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tmp_path / "stranger"
    (stranger / "stranger-1.dist-info").mkdir(parents=True)
    (stranger / "stranger-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (stranger / "stranger-1.dist-info" / "entry_points.txt").write_text("[aws_hmac.backends]\nodd = stranger:Backend\n")
    (stranger / "stranger.py").write_text("raise RuntimeError('hush')\n")
    monkeypatch.syspath_prepend(stranger)
    (found,) = [f for f in findings(capsys) if f["subject"] == "backend odd"]
    assert found["level"] == "bad"
    assert "RuntimeError when it is loaded" in found["text"]

    def fall_ill(*_: object) -> None:
        raise RuntimeError("hush")

    monkeypatch.setattr("toy_backend.ToyBackend.diagnose", fall_ill)
    (found,) = faults(capsys)
    assert "RuntimeError while it was looked at" in found["text"]


class _Clock(BaseHTTPRequestHandler):
    """STS, as far as its Date header goes."""

    ahead = 0.0
    requests: list[dict[str, str]] = []  # noqa: RUF012 - one server

    def do_POST(self) -> None:
        self.requests.append({k.lower(): v for k, v in self.headers.items()})
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response_only(403)
        self.send_header("Date", formatdate(time.time() + _Clock.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        del format, args


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Clock, "ahead", 0.0)
    _Clock.requests.clear()
    with HTTPServer(("127.0.0.1", 0), _Clock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ahead", "level", "said"),
    [
        (0, "good", "within 30 s"),
        (60, "warning", "60 s behind that of"),
        (600, "bad", "600 s behind that of"),
        (-4000, "bad", "4000 s ahead of that of"),
    ],
)
def test_the_clock(
    config: Path,
    uri: str,
    clock: str,
    ahead: float,
    level: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(uri, "--endpoint-url", clock, "--overwrite")
    for now, expected in ((ahead, level), (0, "good")):  # found, and gone when the clocks agree
        monkeypatch.setattr(_Clock, "ahead", float(now))
        capsys.readouterr()
        status = main(["doctor", "--json"])
        everything = json.loads(capsys.readouterr().out)
        found = [f for f in everything if f["area"] == "clock"]
        assert [f["level"] for f in found] == [expected]
        assert status == (1 if any(f["level"] == "bad" for f in everything) else 0)
        if now:
            assert re.sub(r"\d+ s ", f"{abs(ahead):.0f} s ", found[0]["text"], count=1).find(said) > 0
            assert found[0]["mend"]
    assert all("authorization" not in request for request in _Clock.requests)


@pytest.mark.parametrize("date", ["", "soon", "Sun, 22 Nov 2026 06:00:00 -0000"])
def test_a_date_that_is_none(
    config: Path, uri: str, clock: str, date: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(uri, "--endpoint-url", clock, "--overwrite")
    monkeypatch.setitem(globals(), "formatdate", lambda *_, **__: date)
    capsys.readouterr()
    main(["doctor", "--json"])
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["area"] == "clock"]
    assert (found["level"], found["text"]) == ("info", "its answer has no date, so its clock is not known")


@pytest.mark.parametrize("profiles", [True, False])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://example.com"}, "in the clear"),
        ({"AWS_ENDPOINT_URL_STS": "https://sts.example", "AWS_USE_FIPS_ENDPOINT": "true"}, "use_fips_endpoint"),
        ({"AWS_STS_REGIONAL_ENDPOINTS": "both"}, "neither regional nor legacy"),
    ],
)
def test_an_environment_that_names_no_sts(
    config: Path,
    clock: str,
    profiles: bool,
    variables: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not profiles:
        config.unlink()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert main(["doctor", "--json"]) == 1
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["area"] == "clock"]
    assert (found["level"], found["subject"]) == ("bad", "profile prod" if profiles else "STS")
    assert said in found["text"]
    assert found["mend"] == "correct the option, or unset the variable"
    for name in variables:  # carried out
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", clock)
    capsys.readouterr()
    assert main(["doctor", "--json"]) == 0
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["area"] == "clock"]
    assert found["level"] == "good"


def test_an_sts_that_is_not_reached(config: Path, uri: str, clock: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(uri, "--endpoint-url", "http://127.0.0.1:1", "--overwrite")
    capsys.readouterr()
    assert main(["doctor", "--json"]) == 1
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["area"] == "clock"]
    assert found["level"] == "bad"
    assert "not reached" in found["text"]
    configure(uri, "--endpoint-url", clock, "--overwrite")
    capsys.readouterr()
    main(["doctor", "--json"])
    (found,) = [f for f in json.loads(capsys.readouterr().out) if f["area"] == "clock"]
    assert found["level"] == "good"


def test_it_changes_nothing(config: Path, aws_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> list[tuple[str, int, int]]:
        home = aws_home.parent
        return [(str(p), stat.S_IMODE(p.stat().st_mode), p.stat().st_mtime_ns) for p in sorted(home.rglob("*"))]

    before = state()
    findings(capsys)
    assert state() == before
