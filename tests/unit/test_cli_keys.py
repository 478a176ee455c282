from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aws_hmac.backend import fingerprint_of
from aws_hmac.cli import main

if TYPE_CHECKING:
    from tests.conftest import ScriptedSts

ID = "AKIAIOSFODNN7EXAMPLE"
KEY = b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

pytestmark = pytest.mark.usefixtures("aws_home")  # no test sees, or writes, the files of whoever runs it


@pytest.fixture
def uri(toy: Path) -> str:
    (toy / "prod").write_bytes(KEY)
    return f"toy:file={toy}/prod"


def write_profile(aws_home: Path, uri: str) -> None:
    aws_home.mkdir()
    (aws_home / "config").write_text(
        f"[profile prod]\naws_hmac =\n  key = {uri}\n  access_key_id = {ID}\n\n[profile bare]\nregion = eu-west-1\n"
    )


def test_check(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"✓ key: {uri} is there"
    assert lines[1].startswith("✓ computes: one HMAC takes ")
    assert lines[1].endswith(f"fingerprint {fingerprint_of(KEY).hex()}")
    assert lines[2:] == ["✓ CKA_SENSITIVE: true", "! CKA_COPYABLE: true", "    mend: import again"]


def test_check_json(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", uri, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["uri"] == uri
    assert document["fingerprint"] == fingerprint_of(KEY).hex()
    assert document["milliseconds"] > 0
    assert document["findings"][1] == {
        "level": "warning",
        "subject": "CKA_COPYABLE",
        "text": "true",
        "mend": "import again",
    }
    assert "identity" not in document


def test_check_of_a_profile(uri: str, aws_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(aws_home, uri)
    assert main(["key", "check", "--profile", "prod"]) == 0
    assert uri in capsys.readouterr().out
    assert main(["key", "check", "--profile", "bare"]) == 1
    assert "has no aws_hmac block" in capsys.readouterr().err
    assert main(["key", "check", "--profile", "none"]) == 1
    assert "'none'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["toy:file=/x", "--profile", "prod"]])
def test_check_of_one_thing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", *words]) == 1
    assert "give either a key's URI or --profile" in capsys.readouterr().err


def test_check_of_a_missing_key(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", f"toy:file={toy}/none"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"aws-hmac: toy:file={toy}/none: there is no such key\n")


def test_check_of_an_unprotected_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SECRET", "secret")
    assert main(["key", "check", "memory:env=SECRET"]) == 1
    assert "✗ memory: the key is in this process's memory" in capsys.readouterr().out


def test_check_against_a_fingerprint(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = fingerprint_of(KEY).hex()
    assert main(["key", "check", uri, "--expect-fingerprint", right.upper()]) == 0
    capsys.readouterr()
    wrong = f"{int(right[0], 16) ^ 1:x}{right[1:]}"
    assert main(["key", "check", uri, "--expect-fingerprint", wrong]) == 1
    assert f"its fingerprint is {right}, not the one expected" in capsys.readouterr().err


def test_check_of_a_device_that_answers_at_random(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([b"a" * 32, b"b" * 32])
    monkeypatch.setattr("toy_backend.ToyBackend.hmac_sha256", lambda *_: next(answers))
    assert main(["key", "check", uri]) == 1
    assert "two answers differ" in capsys.readouterr().err


def test_sts_needs_to_know_whose_key(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "check", uri, "--sts"]) == 1
    assert "--sts needs --access-key-id" in capsys.readouterr().err


def test_sts_without_a_region(
    uri: str, scripted_sts: ScriptedSts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that key import prints works where no region was ever named."""
    body = (
        b"<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/u</Arn><Account>1</Account>"
        b"</GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
    words = ["key", "check", uri, "--sts", "--access-key-id", ID, "--endpoint-url", scripted_sts.url]
    for region in ("us-east-1", "eu-west-1"):
        scripted_sts.answers.append((200, {}, body))
        assert main(words) == 0
        assert "accepts its signatures: arn:aws:iam::1:user/u" in capsys.readouterr().out
        assert f"/{region}/sts/" in scripted_sts.requests[-1].headers["Authorization"]
        monkeypatch.setenv("AWS_REGION", "eu-west-1")


def test_list(uri: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "other").write_bytes(b"key")
    assert main(["key", "list", "toy:"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KEY URI".ljust(len(uri) + 3) + "DESCRIPTION",
        f"toy:file={toy}/other  a \\x1b[31mtoy key",
        f"{uri}   a \\x1b[31mtoy key",
    ]


def test_list_json(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "list", "toy:", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"uri": uri, "description": "a \x1b[31mtoy key"}]


def test_list_of_nothing(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "list", "toy:"]) == 0
    assert capsys.readouterr().out == "toy: fits no key\n"
    assert main(["key", "list", "toy:", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("command", ["list", "delete"])
def test_what_the_memory_backend_cannot_do(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", command, "memory:env=X"]) == 1
    assert capsys.readouterr().err.startswith("aws-hmac: memory: ")


def test_delete(uri: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "delete", uri, "--yes"]) == 0
    assert capsys.readouterr().out == f"deleted: {uri} (a toy key)\n"
    assert list(toy.iterdir()) == []
    assert main(["key", "delete", uri, "--yes"]) == 1
    assert "there is no such key" in capsys.readouterr().err


def test_delete_without_a_terminal(uri: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "delete", uri]) == 1
    assert "give --yes" in capsys.readouterr().err
    assert (toy / "prod").exists()


def test_delete_of_many(uri: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "other").write_bytes(b"key")
    assert main(["key", "delete", "toy:", "--yes"]) == 1
    assert "fits 2 keys; nothing was deleted" in capsys.readouterr().err
    assert len(list(toy.iterdir())) == 2


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "gone"), [("yes", True), (" YES ", True), ("y", False), ("", False), (None, False)])
def test_delete_asks(
    uri: str,
    toy: Path,
    answer: str | None,
    gone: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def reply(_: str) -> str:
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr(sys, "stdin", _Terminal())
    monkeypatch.setattr("builtins.input", reply)
    assert main(["key", "delete", uri]) == (0 if gone else 1)
    out, err = capsys.readouterr()
    assert f"This deletes for good: {uri}" in err
    assert ("nothing was deleted" in out) is not gone
    assert (toy / "prod").exists() is not gone
