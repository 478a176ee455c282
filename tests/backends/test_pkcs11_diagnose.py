"""Each fault is made, found, and mended by what the finding says; then it is found no more."""

from __future__ import annotations

import grp  # noqa: F401 - now, as nobody may not be able to read Python's library
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pkcs11 import TokenFlag

from aws_hmac._softhsm import SoftHSMToken, make_token
from aws_hmac.testing import EXAMPLE_KEY, finalize_pkcs11_modules, import_into, in_fork
from aws_hmac.uri import KeyURI
from aws_hmac_backends.pkcs11 import Pkcs11Backend, _inspect, _modules, _tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_hmac.backend import Finding

pytestmark = pytest.mark.device("pkcs11")


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process uses these tokens: what is missing stays so."""
    monkeypatch.setattr(_tokens, "PATIENCE", 0.01)


def diagnose(uri: str | None) -> list[Finding]:
    return Pkcs11Backend.diagnose(None if uri is None else KeyURI.parse(uri))


def fault(uri: str | None, level: str = "bad") -> Finding:
    """The one finding of this level."""
    (finding,) = [finding for finding in diagnose(uri) if finding.level == level]
    assert finding.mend
    return finding


def is_well(uri: str) -> bool:
    """Whether nothing is amiss and the key works."""
    findings = diagnose(uri)
    assert not [finding for finding in findings if finding.level in ("bad", "warning")], findings
    return findings[-1][:2] == ("good", "key")


def shell(command: str, **environment: str) -> None:
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)


@pytest.fixture(params=["module-path", "p11-kit-proxy"])
def uri(request: pytest.FixtureRequest, softhsm_token: SoftHSMToken) -> str:
    uri = softhsm_token.uri(module_path="" if request.param == "module-path" else None)
    return import_into(uri, EXAMPLE_KEY)


def test_well(uri: str) -> None:
    assert is_well(uri)


def test_whole_machine(softhsm_token: SoftHSMToken) -> None:
    findings = diagnose(None)
    assert ("good", "module") in [finding[:2] for finding in findings]
    assert any(softhsm_token.label in finding.text for finding in findings)


def test_malformed_uri(softhsm_token: SoftHSMToken) -> None:
    assert "slot-id" in fault("pkcs11:slot-id=x").text


class TestModule:
    def test_no_proxy(self, softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = import_into(softhsm_token.uri(module_path=None), EXAMPLE_KEY)
        with monkeypatch.context() as patch:
            patch.setattr(_modules, "PROXY", ("no-such-proxy.so",))
            finding = fault(uri)
        assert finding.mend == "apt-get install p11-kit p11-kit-modules"  # which the name stood for
        assert is_well(uri)

    def test_not_there(self, softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
        uri = softhsm_token.uri(module_path=f"{tmp_path}/module.so")
        finding = fault(uri)
        assert f"there is no PKCS#11 module {tmp_path}/module.so" in finding.text
        assert "install the module's package" in finding.mend
        shutil.copy(softhsm_token.module, tmp_path / "module.so")
        import_into(uri, EXAMPLE_KEY)
        assert is_well(uri)

    def test_no_library(self, softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
        (tmp_path / "module.so").write_text("no library")
        finding = fault(softhsm_token.uri(module_path=f"{tmp_path}/module.so"))
        assert "cannot be loaded as a PKCS#11 module" in finding.text
        assert "correct module-path" in finding.mend
        import_into(softhsm_token.uri(), EXAMPLE_KEY)
        assert is_well(softhsm_token.uri())

    def test_others_can_write_it(self, softhsm_token: SoftHSMToken, tmp_path: Path) -> None:
        module = tmp_path / "module.so"
        shutil.copy(softhsm_token.module, module)
        module.chmod(0o666)
        uri = softhsm_token.uri(module_path=str(module))
        finding = fault(uri)
        assert finding.mend == f"chmod go-w {module}"
        shell(finding.mend)
        import_into(uri, EXAMPLE_KEY)
        assert is_well(uri)


class TestP11Kit:
    @pytest.fixture
    def configs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """p11-kit's folders of configurations, with a copy of what the system has."""
        system, admin = tmp_path / "system", tmp_path / "admin"
        shutil.copytree(_modules.CONFIGS[0], system)
        monkeypatch.setattr(_modules, "CONFIGS", (system, admin))
        return system

    def test_names_a_library_that_is_not_there(self, configs: Path, softhsm_token: SoftHSMToken) -> None:
        (configs / "gone.module").write_text("# a comment\nmodule: /opt/gone/libgone.so\n")
        finding = fault(None, "warning")
        assert "gone.module names /opt/gone/libgone.so, which is not there" in finding.text
        assert finding.mend.endswith(f"or remove {configs}/gone.module")
        (configs / "gone.module").unlink()
        assert not [f for f in diagnose(None) if f.subject == "p11-kit"]

    def test_does_not_know_a_library(self, configs: Path, softhsm_token: SoftHSMToken) -> None:
        (configs / "softhsm2.module").unlink()
        (finding,) = [f for f in diagnose(None) if f.subject == "p11-kit"]
        assert f"{softhsm_token.module} is installed, and p11-kit does not know it" in finding.text
        shell(finding.mend)
        assert not [f for f in diagnose(None) if f.subject == "p11-kit"]
        assert _modules.configured()["softhsm2"] == Path(softhsm_token.module)


class TestSoftHSM:
    def test_no_configuration(self, uri: str, softhsm_token: SoftHSMToken, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOFTHSM2_CONF", "/nowhere/softhsm2.conf")
        finalize_pkcs11_modules()
        finding = fault(uri)
        assert finding.text == "its configuration /nowhere/softhsm2.conf is not there"
        monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm_token.conf))  # "the file that is meant"
        finalize_pkcs11_modules()
        assert is_well(uri)

    def test_no_folder(self, softhsm_token: SoftHSMToken) -> None:
        shutil.rmtree(softhsm_token.directory / "tokens")
        uri = softhsm_token.uri()
        finding = fault(uri)
        assert finding.mend == f"mkdir -p -m 700 {softhsm_token.directory}/tokens"
        shell(finding.mend)
        assert fault(uri).subject == "token"

    @pytest.fixture
    def shared(self) -> Iterator[SoftHSMToken]:
        """A token in a folder that other users can reach."""
        folder = Path(tempfile.mkdtemp(prefix="aws-hmac-"))
        token = make_token(folder / "softhsm", "shared")
        for path in (folder, folder / "softhsm"):
            path.chmod(0o755)
        token.conf.chmod(0o644)
        yield token
        shutil.rmtree(folder)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    @pytest.mark.parametrize("closed", ["softhsm2.conf", "tokens", "tokens/*"])
    def test_permission(self, shared: SoftHSMToken, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
        """A user who is not in the group of SoftHSM's files, as any user on Debian; then one who is."""
        group = 54321
        monkeypatch.setenv("SOFTHSM2_CONF", str(shared.conf))
        tokens = shared.directory / "tokens"
        for path in (shared.conf, tokens, *tokens.rglob("*")):
            os.chown(path, 0, group)
            mode = 0o050 if path.is_dir() else 0o040
            path.chmod(mode | 0o600 if path.match(closed) else mode | mode >> 3 | 0o600)
        uri = shared.uri().partition("&pin-source")[0]
        (stranger,) = as_nobody(uri, [])
        assert stranger[1] == "SoftHSM"
        assert "is closed to nobody" in stranger[2]
        assert stranger[3].startswith(f"usermod -aG {group} nobody")
        (member,) = as_nobody(uri, [group])
        assert member[1] == "pin-source"  # found the token, and got as far as the URI leads

    def test_own_folder_closed(self, shared: SoftHSMToken, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder of the user's own that is closed to the user; root, who is never shut out, becomes another."""
        monkeypatch.setenv("SOFTHSM2_CONF", str(shared.conf))
        tokens = shared.directory / "tokens"
        for path in (tokens, *tokens.rglob("*")):
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        uri = shared.uri().partition("&pin-source")[0]
        tokens.chmod(0)
        (found,) = as_nobody(uri, [])
        assert found[1] == "SoftHSM"
        assert found[3] == f"chmod -R u+rwX {tokens}"
        shell(found[3])
        (found,) = as_nobody(uri, [])
        assert found[1] == "pin-source"


NOBODY = 65534


def as_nobody(uri: str, groups: list[int]) -> list[list[str]]:
    """What is bad in the eyes of a child process that root has made another user."""

    def child() -> bytes:
        if os.geteuid() == 0:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return json.dumps([tuple(finding) for finding in diagnose(uri) if finding.level == "bad"]).encode()

    found: list[list[str]] = json.loads(in_fork(child))
    return found


class TestToken:
    def test_none(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        other = uri.replace(softhsm_token.label, "other")
        finding = fault(other)
        assert f"there are token '{softhsm_token.label}'" in finding.text
        assert "an uninitialised one in slot" in finding.text
        command = finding.mend.partition("(SoftHSM: ")[2].removesuffix(")")
        assert command == "softhsm2-util --init-token --free --label other"
        shell(f"{command} --pin {softhsm_token.pin} --so-pin 1234")
        import_into(other, EXAMPLE_KEY)
        assert is_well(other)

    def test_several(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        shell("softhsm2-util --init-token --free --label other --pin 1234 --so-pin 1234")
        finalize_pkcs11_modules()
        finding = fault(uri.replace(f"token={softhsm_token.label};", ""))
        assert "several tokens fit" in finding.text
        assert finding.mend == "add token= or serial= to the URI"
        assert is_well(uri)


class TestPin:
    def test_not_set(self, softhsm_token: SoftHSMToken) -> None:
        tool = f"pkcs11-tool --module {softhsm_token.module}"
        slot = [i for i, line in enumerate(_slots(softhsm_token)) if "uninitialized" in line]
        shell(f"{tool} --init-token --slot-index {slot[0]} --label fresh --so-pin env:SO_PIN", SO_PIN="1234")
        uri = softhsm_token.uri().replace(softhsm_token.label, "fresh", 1)
        finding = fault(uri)
        assert "has no user PIN yet" in finding.text
        command = finding.mend.rpartition("pkcs11-tool ")[2]
        secrets = {"SO_PIN": "1234", "PIN": softhsm_token.pin}
        shell(f"{tool} {command} --token-label fresh --so-pin env:SO_PIN --pin env:PIN", **secrets)
        finalize_pkcs11_modules()  # as a new process: SoftHSM sees what another process did to a token only then
        import_into(uri, EXAMPLE_KEY)
        assert is_well(uri)

    def test_a_wrong_one_was_given(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        log_in = ["pkcs11-tool", "--module", softhsm_token.module, "--token-label", softhsm_token.label, "-l", "-O"]
        wrong = subprocess.run([*log_in, "--pin", "env:PIN"], env=os.environ | {"PIN": "wrong"}, capture_output=True)
        assert wrong.returncode
        finding = fault(uri, "warning")
        assert finding.subject == "CKF_USER_PIN_COUNT_LOW"
        command = finding.mend.partition(": ")[2]
        shell(f"{command} --module {softhsm_token.module} --pin env:PIN", PIN=softhsm_token.pin)
        assert is_well(uri)

    def test_wrong(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        right = softhsm_token.pin
        softhsm_token.pin_file.write_text("wrong")
        finding = fault(uri)
        assert "refuses the PIN that pin-source gives" in finding.text
        assert finding.mend == "put the right PIN where pin-source says"
        softhsm_token.pin_file.write_text(right)
        assert fault(uri, "warning").subject == "CKF_USER_PIN_COUNT_LOW"
        import_into(uri, EXAMPLE_KEY, overwrite=True)  # logs in
        assert is_well(uri)

    def test_no_source(self, uri: str) -> None:
        finding = fault(uri.partition("pin-source")[0].rstrip("?&"))
        assert "wants a login, and the URI says nothing of a PIN" in finding.text
        assert "add ?pin-source=file:/path" in finding.mend
        assert is_well(uri)

    def test_missing_source(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        away = softhsm_token.pin_file.rename(softhsm_token.directory / "away")
        finding = fault(uri)
        assert "cannot be read: No such file" in finding.text
        assert finding.mend == "put the PIN there, or name another source"
        away.rename(softhsm_token.pin_file)
        assert is_well(uri)

    def test_empty_source(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        right = softhsm_token.pin
        softhsm_token.pin_file.write_text("\n")
        assert "is empty" in fault(uri).text
        softhsm_token.pin_file.write_text(right)
        assert is_well(uri)

    @pytest.mark.parametrize(("mode", "level"), [(0o644, "warning"), (0o640, "warning"), (0o622, "bad")])
    def test_source_open_to_others(self, uri: str, softhsm_token: SoftHSMToken, mode: int, level: str) -> None:
        softhsm_token.pin_file.chmod(mode)
        finding = fault(uri, level)
        assert finding.mend.startswith("chmod go-")
        shell(finding.mend)
        if level == "bad":
            softhsm_token.pin_file.chmod(0o600)
        assert is_well(uri)

    def test_prompt_is_left_alone(self, uri: str) -> None:
        findings = diagnose(uri.partition("pin-source")[0] + "pin-source=prompt")
        assert findings[-1][:2] == ("info", "pin-source")

    @pytest.mark.parametrize(
        ("flags", "level", "mend"),
        [
            (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY, "bad", "security officer sets a new PIN"),
            (TokenFlag.USER_PIN_FINAL_TRY, "bad", "log in once with the right PIN"),
            (TokenFlag.USER_PIN_COUNT_LOW, "warning", "log in once with the right PIN"),
            (TokenFlag.USER_PIN_TO_BE_CHANGED, "warning", "--change-pin"),
        ],
    )
    def test_states_that_softhsm_does_not_have(self, flags: Any, level: str, mend: str) -> None:
        class Token:
            label, serial, manufacturer_id, model = "t", b"1", "m", "m"

        Token.flags = flags | TokenFlag.LOGIN_REQUIRED | TokenFlag.USER_PIN_INITIALIZED  # type: ignore[attr-defined] # a double
        (finding,) = _inspect.pin_state(Token)
        assert finding.level == level
        assert mend in finding.mend
        Token.flags = TokenFlag.LOGIN_REQUIRED | TokenFlag.USER_PIN_INITIALIZED  # type: ignore[attr-defined] # a double
        assert not list(_inspect.pin_state(Token))


class TestKey:
    def test_none(self, uri: str) -> None:
        other = uri.replace("object=prod", "object=other")
        finding = fault(other)
        assert "no such HMAC key" in finding.text
        words = shlex.split(finding.mend)
        assert words[:3] == ["aws-hmac", "key", "import"]
        command = [sys.executable, "-c", "import sys; from aws_hmac.cli import main; sys.exit(main())", *words[1:]]
        subprocess.run(command, input="s" * 40, text=True, check=True, stdout=subprocess.DEVNULL)
        assert is_well(other)

    def test_two(self, uri: str, softhsm_token: SoftHSMToken) -> None:
        two = uri.replace("object=prod", "object=two;id=%31"), uri.replace("object=prod", "object=two;id=%32")
        for one in two:
            import_into(one, EXAMPLE_KEY)
        both = uri.replace("object=prod", "object=two")
        assert "2 keys fit" in fault(both).text
        assert "add id=" in fault(both).mend
        assert is_well(two[0])
        Pkcs11Backend.delete_key(KeyURI.parse(two[1]))
        assert is_well(both)


def _slots(token: SoftHSMToken) -> list[str]:
    done = subprocess.run(["pkcs11-tool", "--module", token.module, "-L"], capture_output=True, text=True, check=True)
    return done.stdout.split("\nSlot ")[1:]
