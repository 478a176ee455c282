"""Nodes that die, lead, lag, are sealed or redirect; TLS; proxies; health."""

from __future__ import annotations

import hmac
import http.server
import itertools
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
import requests
import trustme

from aws_hmac import (
    AuthenticationError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    KeyURIError,
    SecurityWarning,
    SigningKeys,
    open_backend,
)
from aws_hmac.backend import HmacBackend, fingerprint, fingerprint_of
from aws_hmac.testing import EXAMPLE_KEY, import_into
from aws_hmac.uri import KeyURI
from aws_hmac_backends.vault import VaultBackend
from tests.transit_server.fixtures import double

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.transit_server.fixtures import Vault

DAY = b"20260101"


def changed(uri: str, **query: str | None) -> KeyURI:
    parsed = KeyURI.parse(uri)
    kept = {k: v for k, v in parsed.query.items() if k.replace("-", "_") not in query}
    return KeyURI(
        parsed.scheme,
        parsed.path,
        {**kept, **{k.replace("_", "-"): v.encode() for k, v in query.items() if v is not None}},
    )


def right(key: HmacBackend) -> bool:
    return key.hmac_sha256(DAY) == hmac.digest(EXAMPLE_KEY, DAY, "sha256")


class TestFailover:
    def test_64_threads_lose_nothing(self, vault_cluster: Vault) -> None:
        """10,240 signing keys with cache="none", each against hashlib, while nodes die, are sealed and come back."""
        threads, calls = 64, 160
        done, wrong, lost = [0] * threads, [0] * threads, [0] * threads
        said: list[str] = []
        with open_backend(vault_cluster.imported()) as backend:
            keys = SigningKeys(backend, mode="none")

            def work(number: int) -> None:
                for call in range(calls):
                    date = f"2026{number:02}{call:03}"
                    expected = EXAMPLE_KEY
                    for step in (date, "eu-west-1", "s3", "aws4_request"):
                        expected = hmac.digest(expected, step.encode(), "sha256")
                    try:
                        signature = keys.signing_key(date, "eu-west-1", "s3").sign(b"string to sign")
                    except Exception as exc:  # noqa: BLE001 - counted
                        lost[number] += 1
                        said.append(str(exc))
                        continue
                    wrong[number] += signature != hmac.new(expected, b"string to sign", "sha256").hexdigest()
                    done[number] += 1

            def until(part: float) -> None:
                while sum(done) + sum(lost) < part * threads * calls and any(w.is_alive() for w in workers):
                    time.sleep(0.01)

            workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
            for worker in workers:
                worker.start()
            until(0.15)
            vault_cluster.order("kill", node=0, election=0.5)  # the active one, with requests under way
            until(0.35)
            vault_cluster.order("start", node=0)
            vault_cluster.order("forwarding", on=False)  # from here on, standbys redirect
            vault_cluster.order("elect", node=2)
            until(0.55)
            vault_cluster.order("seal", node=2, election=0.3)
            until(0.75)
            vault_cluster.order("seal", node=2, sealed=False)
            active = vault_cluster.order("status")["active"]
            vault_cluster.order("kill", node=active, election=0.5)
            for worker in workers:
                worker.join()
        served = vault_cluster.order("status")["requests"]
        print(f"{sum(done)} HMACs, {sum(wrong)} wrong, {sum(lost)} lost; requests per node {served}")
        assert (sum(done), sum(wrong), sum(lost)) == (threads * calls, 0, 0), said[:3]
        assert all(n > 100 for n in served), "every node has led for a while"

    def test_without_patience_it_is_lost(self, vault_cluster: Vault) -> None:
        """The twin: what the test above does not see lost is lost without retries."""
        with open_backend(changed(vault_cluster.imported(), patience="0")) as key:
            assert right(key)
            vault_cluster.order("kill", node=0, election=0.5)
            with pytest.raises(DeviceLostError, match="a standby that knows of no active node"):
                key.hmac_sha256(DAY)
            time.sleep(0.8)
            assert right(key)

    def test_an_answer_that_was_lost_is_asked_again(self, vault_double: Vault) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="drop", times=2)
            assert right(key)

    def test_an_import_is_never_sent_twice(self, vault_double: Vault) -> None:
        """The answer to an import is lost: what is there is looked at, and proven."""
        uri = vault_double.uri()
        vault_double.order(
            "fault", path=f"{vault_double.mount}/keys/{KeyURI.parse(uri).get('key')}/import", kind="drop"
        )
        named = import_into(uri, EXAMPLE_KEY)
        assert KeyURI.parse(named).get("version") == "1"
        vault_double.order(
            "fault", path=f"{vault_double.mount}/keys/{KeyURI.parse(uri).get('key')}/import_version", kind="drop"
        )
        assert KeyURI.parse(import_into(named, b"second" * 8, overwrite=True)).get("version") == "2"

    def test_nor_to_another_address(self, vault_double: Vault) -> None:
        named = vault_double.imported()
        here = vault_double.addresses[0]
        path = f"{vault_double.mount}/keys/{KeyURI.parse(named).get('key')}/import_version"
        vault_double.order("fault", path=path, kind="drop")
        both = str(changed(named, addr=f"{here},{here.replace('127.0.0.1', 'localhost')}"))
        assert KeyURI.parse(import_into(both, b"second" * 8, overwrite=True)).get("version") == "2"

    def test_an_import_that_did_not_arrive(self, vault_double: Vault) -> None:
        uri = vault_double.uri()
        path = f"{vault_double.mount}/keys/{KeyURI.parse(uri).get('key')}/import"
        vault_double.order("fault", path=path, kind="status", status=500, errors=["1 error occurred:\n\t* no room\n\n"])
        with pytest.raises(DeviceError, match=r"error 500: .*no room"):
            import_into(uri, EXAMPLE_KEY)
        import_into(uri, EXAMPLE_KEY)


class TestOutage:
    """What becomes of signing while Vault is away (docs/vault.md counts on this)."""

    def test_the_day_goes_on_and_the_next_waits(self, vault_cluster: Vault) -> None:
        with open_backend(changed(vault_cluster.imported(), patience="0")) as backend:
            keys = SigningKeys(backend)
            keys.signing_key("20260101", "eu-west-1", "s3")
            before = sum(vault_cluster.order("status")["requests"])
            for node in range(3):
                vault_cluster.order("kill", node=node, election=0.0)
            signed = [keys.signing_key("20260101", f"region-{n}", "s3") for n in range(1000)]
            assert len({key.sign(b"x") for key in signed}) == 1000
            failed = 0
            for _ in range(10):  # after midnight
                with pytest.raises(DeviceLostError, match="Vault was there and is gone"):
                    keys.signing_key("20260102", "eu-west-1", "s3")
                failed += 1
            for node in range(3):
                vault_cluster.order("start", node=node)
            time.sleep(0.2)
            keys.signing_key("20260102", "eu-west-1", "s3")
            asked = sum(vault_cluster.order("status")["requests"]) - before
            print(
                f"1000 signing keys without Vault, {failed} refused after midnight, {asked} requests once it was back"
            )
            assert asked == 2, "the new day's kDate, and the fingerprint"

    def test_tomorrow_fetched_before_midnight(self, vault_cluster: Vault) -> None:
        with open_backend(changed(vault_cluster.imported(), patience="0")) as backend:
            keys = SigningKeys(backend)
            keys.prefetch(1767311999.0 - 60)  # 2026-01-01T23:58:59Z
            for node in range(3):
                vault_cluster.order("kill", node=node, election=0.0)
            keys.signing_key("20260101", "eu-west-1", "s3")
            keys.signing_key("20260102", "eu-west-1", "s3")
            with pytest.raises(DeviceLostError):
                keys.signing_key("20260103", "eu-west-1", "s3")


class TestLoad:
    """The numbers of requests that docs/vault.md calculates a fleet's load from."""

    def count(self, vault: Vault, uri: str, *dates: str) -> list[int]:
        seen = [vault.order("status")["requests"][0]]
        with open_backend(uri) as backend:
            keys = SigningKeys(backend)
            for date in dates:
                for region in ("eu-west-1", "us-east-1"):
                    keys.signing_key(date, region, "s3")
                seen.append(vault.order("status")["requests"][0])
        seen.append(vault.order("status")["requests"][0])
        return [after - before for before, after in itertools.pairwise(seen)]

    def test_token(self, vault_double: Vault) -> None:
        assert self.count(vault_double, vault_double.imported(), "20260101", "20260102") == [4, 2, 0]

    def test_login(self, vault_double: Vault) -> None:
        vault = vault_double
        named = KeyURI.parse(vault.imported())
        vault.do("POST", "sys/auth/load", type="userpass")
        vault.do("PUT", "sys/policies/acl/load", policy=VaultBackend.policy(named, "signer"))
        vault.do("POST", "auth/load/users/load", password="load", token_policies="load", token_ttl="1h")
        login = {"auth": "userpass", "auth_mount": "load", "username": "load"}
        uri = vault.uri(str(named.get("key")), password_source=f"file:{vault.file('load')}", **login)
        assert self.count(vault, uri, "20260101", "20260102") == [4, 2, 1]


class TestNodes:
    def test_the_second_address_serves(self, vault: Vault) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
            named = changed(vault.imported(), addr=f"{dead},{vault.addresses[0]}")
            with open_backend(named) as key:
                assert right(key)

    def test_nobody_there(self, vault: Vault) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
            start = time.monotonic()
            with pytest.raises(DeviceError, match=f"{dead} cannot be reached$"):
                open_backend(changed(vault.uri(), addr=dead))
            assert time.monotonic() - start < 3, "who was never there is not waited for"

    @pytest.mark.parametrize("product", ["Vault", "OpenBao"])
    def test_sealed(self, vault_cluster: Vault, product: str) -> None:
        vault_cluster.order("product", name=product)
        with open_backend(vault_cluster.imported()) as key:
            for node in range(3):
                vault_cluster.order("seal", node=node)
            start = time.monotonic()
            with pytest.raises(DeviceError, match=r"is sealed.*is sealed.*is sealed; its keepers must unseal it"):
                key.hmac_sha256(DAY)
            assert time.monotonic() - start < 3, "people unseal, and take longer than any patience"
            vault_cluster.order("seal", node=1, sealed=False)
            assert right(key)

    def test_one_sealed_of_three(self, vault_cluster: Vault) -> None:
        named = vault_cluster.imported()
        vault_cluster.order("seal", node=0)
        with open_backend(named) as key:
            before = vault_cluster.order("status")["requests"][0]
            assert all(right(key) for _ in range(10))
            assert vault_cluster.order("status")["requests"][0] == before, "who answered last is asked first"

    def test_redirect_among_the_configured(self, vault_cluster: Vault) -> None:
        named = vault_cluster.imported()
        vault_cluster.order("forwarding", on=False)
        vault_cluster.order("elect", node=2)
        with open_backend(named) as key:
            assert right(key)

    def test_redirect_elsewhere_gets_no_token(self, vault_cluster: Vault) -> None:
        named = changed(vault_cluster.imported(), addr=vault_cluster.addresses[1])
        vault_cluster.order("forwarding", on=False)
        before = vault_cluster.order("status")["requests"][0]
        with pytest.raises(
            DeviceError, match=f"redirects to {vault_cluster.addresses[0]}, which is not followed.*addr"
        ):
            open_backend(named)
        assert vault_cluster.order("status")["requests"][0] == before

    @pytest.mark.parametrize(
        ("status", "location"), [(302, "/v1/x"), (307, "/login"), (301, "https://evil.example/v1/x"), (307, "")]
    )
    def test_other_redirects(self, vault_double: Vault, status: int, location: str) -> None:
        with open_backend(vault_double.imported()) as key:
            fault = {"kind": "raw", "status": status, "headers": {"Location": location}, "body": ""}
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", **fault)
            with pytest.raises(DeviceError, match="redirects to"):
                key.hmac_sha256(DAY)
            assert right(key)

    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (412, "required index state not present"),
            (429, "rate limit quota exceeded"),
            (500, "1 error occurred:\n\t* context deadline exceeded\n\n"),
            (502, "upstream"),
            (503, "no server is available"),
            (504, "gateway time-out"),
        ],
    )
    def test_passing_errors_are_sat_out(self, vault_double: Vault, status: int, text: str) -> None:
        with open_backend(vault_double.imported()) as key:
            fault = {"kind": "status", "status": status, "errors": [text], "times": 2}
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", **fault)
            assert right(key)

    def test_retry_after(self, vault_double: Vault) -> None:
        with open_backend(vault_double.imported()) as key:
            fault = {"kind": "status", "status": 429, "errors": ["slow down"], "headers": {"Retry-After": "2"}}
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", **fault)
            start = time.monotonic()
            assert right(key)
            assert time.monotonic() - start >= 2

    def test_html_of_a_load_balancer_is_sat_out(self, vault_double: Vault) -> None:
        with open_backend(vault_double.imported()) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="html", status=503, times=2)
            assert right(key)

    def test_an_error_that_stays_is_believed(self, vault_double: Vault) -> None:
        with open_backend(vault_double.imported()) as key:
            fault = {"kind": "status", "status": 500, "errors": ["1 error occurred:\n\t* disk full\n\n"], "times": 99}
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", **fault)
            start = time.monotonic()
            with pytest.raises(DeviceError, match=r"error 500: .*disk full"):
                key.hmac_sha256(DAY)
            assert time.monotonic() - start < 3

    def test_a_quota_is_waited_for(self, vault: Vault) -> None:
        with open_backend(vault.imported()) as key:
            quota = f"sys/quotas/rate-limit/{vault.mount}"
            vault.do("POST", quota, path=f"{vault.mount}/", rate=5)
            try:
                assert all(right(key) for _ in range(8))
                hasty = open_backend  # each opening reads the key, too
                with pytest.raises(DeviceBusyError, match="limits the rate"):
                    for _ in range(20):
                        with hasty(changed(vault.uri(KeyURI.parse(key.name).get("key")), patience="0")) as other:
                            other.hmac_sha256(DAY)
            finally:
                vault.do("DELETE", quota)

    def test_slow(self, vault_double: Vault) -> None:
        with open_backend(changed(vault_double.imported(), timeout="0.3", patience="0")) as key:
            vault_double.order("fault", path=f"{vault_double.mount}/hmac", kind="hang", seconds=1)
            with pytest.raises(DeviceLostError, match=r"did not answer within 0\.3 s"):
                key.hmac_sha256(DAY)
            assert right(key)

    def test_closed_while_it_waits(self, vault_cluster: Vault) -> None:
        key = open_backend(vault_cluster.imported())
        vault_cluster.order("leaderless")
        threading.Timer(0.3, key.close).start()
        start = time.monotonic()
        with pytest.raises(DeviceError, match="closed"):
            key.hmac_sha256(DAY)
        assert time.monotonic() - start < 5


class Authority(NamedTuple):
    ca: trustme.CA
    folder: Path

    def issue(self, *names: str, name: str = "server") -> tuple[str, str]:
        """Makes a certificate; returns the files of it and its key."""
        made = self.ca.issue_cert(*names)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return str(certificate), str(key)

    @property
    def file(self) -> str:
        path = self.folder / "ca.pem"
        if not path.exists():
            self.ca.cert_pem.write_to_path(str(path))
        return str(path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(trustme.CA(), tmp_path)


@contextmanager
def tls(authority: Authority, *arguments: str, names: tuple[str, ...] = ("127.0.0.1",)) -> Iterator[Vault]:
    certificate, key = authority.issue(*names)
    with double("--cert", certificate, "--key", key, *arguments, verify=authority.file) as vault:
        vault.folder = authority.folder
        yield vault


@pytest.mark.usefixtures("clean_environment")
class TestTLS:
    def test_known_and_unknown_authority(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        with tls(authority) as vault:
            vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
            named = vault.imported(ca_file=authority.file)
            with open_backend(named) as key:
                assert right(key)
            bare = changed(named, ca_file=None)
            with pytest.raises(
                DeviceError, match=r"certificate that is not accepted: .*; name its authority by ca-file"
            ):
                open_backend(bare)
            monkeypatch.setenv("VAULT_SKIP_VERIFY", "1")
            with pytest.raises(DeviceError, match="VAULT_SKIP_VERIFY is not obeyed"):
                open_backend(bare)
            stranger = authority.folder / "stranger.pem"
            trustme.CA().cert_pem.write_to_path(str(stranger))
            with pytest.raises(DeviceError, match="not accepted"):
                open_backend(changed(named, ca_file=str(stranger)))
            monkeypatch.setenv("VAULT_CACERT", authority.file)
            with open_backend(bare) as key:
                assert right(key)

    def test_another_hosts_certificate(self, authority: Authority) -> None:
        wanted = pytest.raises(DeviceError, match=r"not accepted: .*127\.0\.0\.1")
        with tls(authority, names=("vault.example",)) as vault, wanted:
            open_backend(vault.uri(ca_file=authority.file))

    def test_http_and_https_mistaken(self, authority: Authority) -> None:
        with tls(authority) as vault:
            plain = vault.addresses[0].replace("https", "http")
            with pytest.raises(DeviceError, match=f"{plain} "):
                open_backend(changed(vault.uri(), addr=plain))
        with double() as vault:
            vault.folder = authority.folder
            with pytest.raises(DeviceError, match="speaks no TLS"):
                open_backend(changed(vault.uri(), addr=vault.addresses[0].replace("http", "https")))

    def test_client_certificate_that_the_listener_wants(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = authority.issue("client.example", name="client")
        with tls(authority, "--client-ca", authority.file, "--require-client") as vault:
            vault.cert = mine
            vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
            named = vault.imported(ca_file=authority.file, cert_file=mine[0], key_file=mine[1])
            with open_backend(named) as key:
                assert right(key)
            without = changed(named, cert_file=None, key_file=None)
            with pytest.raises(DeviceError):
                open_backend(without)
            monkeypatch.setenv("VAULT_CLIENT_CERT", mine[0])
            monkeypatch.setenv("VAULT_CLIENT_KEY", mine[1])
            with open_backend(without) as key:
                assert right(key)

    def test_login_by_certificate(self, authority: Authority) -> None:
        mine = authority.issue("client.example", name="client")
        with tls(authority, "--client-ca", authority.file) as vault:
            vault.do("POST", f"sys/mounts/{vault.mount}", type="transit")
            named = KeyURI.parse(vault.imported(ca_file=authority.file))
            policy = VaultBackend.policy(named, "signer")
            vault.do("PUT", "sys/policies/acl/signer", policy=policy)
            vault.do("POST", "sys/auth/cert", type="cert")
            role = {
                "token_policies": "signer",
                "token_ttl": "1h",
                "certificate": authority.ca.cert_pem.bytes().decode(),
            }
            vault.do("POST", "auth/cert/certs/web", **role)
            own = {"ca_file": authority.file, "cert_file": mine[0], "key_file": mine[1], "auth": "cert"}
            for uri in (vault.uri(str(named.get("key")), **own), vault.uri(str(named.get("key")), role="web", **own)):
                with open_backend(uri) as key:
                    assert right(key)
            with pytest.raises(AuthenticationError, match="the cert login was refused: invalid certificate"):
                open_backend(vault.uri(str(named.get("key")), role="db", **own))

    def test_a_key_file_that_others_can_write(self, authority: Authority) -> None:
        certificate, key = authority.issue("client.example", name="client")
        (authority.folder / "client.key").chmod(0o666)
        with pytest.raises((AuthenticationError, KeyURIError), match="others can write"):
            open_backend(f"vault:key=k?addr=https://127.0.0.1:1&auth=cert&cert-file={certificate}&key-file={key}")


class Relay(http.server.BaseHTTPRequestHandler):
    """A forward proxy for http, or a Vault Agent that adds its own token."""

    protocol_version = "HTTP/1.1"
    seen: list[str]
    target: str
    token: str | None

    def relay(self) -> None:
        self.seen.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = self.path if self.path.startswith("http") else self.target + self.path
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "content-length")}
        if self.token is not None:
            headers["X-Vault-Token"] = self.token
        answer = requests.request(
            self.command, url, headers=headers, data=body, timeout=10, proxies={"http": "", "https": ""}
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = relay  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the library's name


@contextmanager
def relay(target: str = "", token: str | None = None) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    handler = type("Handler", (Relay,), {"seen": seen, "target": target, "token": token})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


class TestProxy:
    def test_by_attribute_and_environment(self, vault_double: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        named = vault_double.imported()
        with relay() as (address, seen):
            with open_backend(changed(named, proxy=address)) as key:
                assert right(key)
            assert any(url.startswith(vault_double.addresses[0]) for url in seen)
            for variable in ("HTTP_PROXY", "VAULT_PROXY_ADDR"):
                seen.clear()
                with monkeypatch.context() as inner:
                    inner.setenv(variable, address)
                    with open_backend(named) as key:
                        assert right(key)
                    assert seen
                    seen.clear()
                    with open_backend(changed(named, proxy="none")) as key:
                        assert right(key)
                    assert not seen
            monkeypatch.setenv("HTTP_PROXY", address)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            with open_backend(named) as key:
                assert right(key)
            assert not seen

    def test_a_dead_proxy(self, vault_double: Vault) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
            with pytest.raises(DeviceError, match="cannot be reached through the proxy"):
                open_backend(changed(vault_double.uri(), proxy=dead))


def test_vault_agents_address(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Agent adds its token: we need none, and send none."""
    named = KeyURI.parse(vault.imported())
    monkeypatch.setenv("VAULT_TOKEN", "hvs.wrong")
    with relay(vault.addresses[0], vault.token(VaultBackend.policy(named, "signer"))) as (address, _):
        uri = changed(str(named), addr=address, token_source=None, auth="none")
        with open_backend(uri) as key:
            assert fingerprint(key) == fingerprint_of(EXAMPLE_KEY)


def test_keys_are_listed_through_proxies_that_know_no_list_method(vault: Vault) -> None:
    mount = f"{vault.mount}-list"
    vault.do("POST", f"sys/mounts/{mount}", type="transit")
    try:
        uri = KeyURI.parse(vault.uri()).replace(mount=mount)
        with relay(vault.addresses[0]) as (address, _):
            through = changed(str(uri), addr=address)
            assert VaultBackend.list_keys(through.replace(key=None)) == []
            named = KeyURI.parse(import_into(str(through), EXAMPLE_KEY))
            assert [e.uri for e in VaultBackend.list_keys(through.replace(key=None))] == [str(named)]
            assert [e.uri for e in VaultBackend.list_keys(named)] == [str(named)]
    finally:
        vault.do("DELETE", f"sys/mounts/{mount}")


class TestDiagnose:
    def found(self, uri: KeyURI | str | None) -> list[tuple[str, str]]:
        parsed = KeyURI.parse(uri) if isinstance(uri, str) else uri
        return [(f.level, f"{f.subject}: {f.text}") for f in VaultBackend.diagnose(parsed)]

    def test_each_node(self, vault_cluster: Vault) -> None:
        named = vault_cluster.imported()
        vault_cluster.order("seal", node=1)
        vault_cluster.order("kill", node=2)
        first, second, third = vault_cluster.addresses
        found = self.found(named)
        assert ("good", f"{first}: the active node, version 1.0.0-double") in found
        assert ("bad", f"{second}: sealed, version 1.0.0-double") in found
        assert ("bad", f"{third}: cannot be reached") in found
        assert any(level == "good" and "the login works, and the key is there" in text for level, text in found)

    def test_a_standby_alone_is_healthy(self, vault_cluster: Vault) -> None:
        found = self.found(changed(vault_cluster.uri(), addr=vault_cluster.addresses[1]))
        assert found[0] == ("good", f"{vault_cluster.addresses[1]}: a standby, version 1.0.0-double")
        assert found[-1][0] == "bad"
        assert "there is no such key" in found[-1][1]

    def test_not_vault(self, vault_double: Vault) -> None:
        vault_double.order("fault", path="sys/health", kind="html")
        assert "this is not Vault" in self.found(vault_double.uri())[0][1]

    def test_a_wrong_token(self, vault: Vault) -> None:
        found = self.found(vault.uri(token="hvs.wrong"))
        assert [level for level, _ in found] == ["good", "bad"]
        assert found[1][1].startswith("login:")

    def test_the_machine_alone(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.found(None) == [("info", "vault: neither VAULT_ADDR nor BAO_ADDR is set")]
        monkeypatch.setenv("VAULT_ADDR", vault.addresses[0])
        assert [level for level, _ in self.found(None)] == ["good"]
        monkeypatch.setenv("VAULT_ADDR", "vault")
        assert [level for level, _ in self.found(None)] == ["bad"]


def test_in_clear_over_a_network_is_warned_of(clean_environment: None) -> None:
    uri = "vault:key=k?addr=http://vault.invalid:8200&timeout=1&proxy=none&auth=none"
    with pytest.warns(SecurityWarning, match="http://vault.invalid:8200 is not encrypted"), pytest.raises(DeviceError):
        open_backend(uri)
    with pytest.warns(SecurityWarning):
        found = VaultBackend.diagnose(KeyURI.parse(uri))
    assert ("bad", "not encrypted: token and HMACs can be read") in [(f.level, f.text) for f in found]


def test_files_that_are_no_certificates(authority: Authority, clean_environment: None) -> None:
    """OpenSSL's complaints are not all wrapped by requests."""
    junk = authority.folder / "junk.pem"
    junk.write_text("no certificate")
    junk.chmod(0o600)
    with tls(authority) as vault:
        with pytest.raises(DeviceError):
            open_backend(vault.uri(ca_file=str(junk)))
        with pytest.raises(DeviceError):
            open_backend(vault.uri(ca_file=authority.file, cert_file=str(junk), key_file=str(junk)))
