"""Key URIs against RFC 7512."""

from __future__ import annotations

import copy
import pickle
import string
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_hmac import KeyURIError
from aws_hmac.uri import KeyURI

RFC_EXAMPLES = {
    # RFC 7512, section 3; those with pin-value are refused, see below.
    "pkcs11:": ({}, {}),
    "pkcs11:object=my-pubkey;type=public": ({"object": b"my-pubkey", "type": b"public"}, {}),
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token": (
        {"object": b"my-key", "type": b"private"},
        {"pin-source": b"file:/etc/token"},
    ),
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
    "object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin": (
        {
            "token": b"The Software PKCS#11 Softtoken",
            "manufacturer": b"Snake Oil, Inc.",
            "model": b"1.0",
            "object": b"my-certificate",
            "type": b"cert",
            "id": b"\x69\x95\x3e\x5c\xf4\xbd\xec\x91",
            "serial": b"",
        },
        {"pin-source": b"file:/etc/token_pin"},
    ),
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11": (
        {"object": b"my-sign-key", "type": b"private"},
        {"module-name": b"mypkcs11"},
    ),
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1": (
        {"object": b"my-sign-key", "type": b"private"},
        {"module-path": b"/mnt/libmypkcs11.so.1"},
    ),
    "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-source=/etc/token_pin": (
        {"token": b"Software PKCS#11 softtoken", "manufacturer": b"Snake Oil, Inc."},
        {"pin-source": b"/etc/token_pin"},
    ),
    "pkcs11:slot-description=Sun%20Metaslot": ({"slot-description": b"Sun Metaslot"}, {}),
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23": (
        {
            "library-manufacturer": b"Snake Oil, Inc.",
            "library-description": b"Soft Token Library",
            "library-version": b"1.23",
        },
        {},
    ),
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert": (
        {"token": b"A name with a substring %;", "object": b"my-certificate", "type": b"cert"},
        {},
    ),
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert": (
        {"token": "Name with a small A with acute: á".encode(), "object": b"my-certificate", "type": b"cert"},
        {},
    ),
    "pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a?pin-source=file:/etc/token_pin"
    "&vendor-bbb=value-b": (
        {"token": b"my-token", "object": b"my-certificate", "type": b"cert", "vendor-aaa": b"value-a"},
        {"pin-source": b"file:/etc/token_pin", "vendor-bbb": b"value-b"},
    ),
}


@pytest.mark.parametrize("text", RFC_EXAMPLES)
def test_rfc_examples(text: str) -> None:
    uri = KeyURI.parse(text)
    assert (dict(uri.path), dict(uri.query)) == RFC_EXAMPLES[text]
    assert KeyURI.parse(str(uri)) == uri


RES_AVAIL = ":[]@!$'()*+,="  # RFC 7512, section 2.3
UNRESERVED = string.ascii_letters + string.digits + "-._~"


@pytest.mark.parametrize("character", [chr(n) for n in range(0x20, 0x7F)])
def test_each_character(character: str) -> None:
    """What stands unencoded in path and query, to the letter of the grammar."""
    in_path = character in UNRESERVED + RES_AVAIL + "&"
    in_query = character in UNRESERVED + RES_AVAIL + "/?|"
    structure_of_path = character in ";?"  # begins another part
    for allowed, structure, text in (
        (in_path, structure_of_path, f"pkcs11:object=a{character}b"),
        (in_query, character == "&", f"pkcs11:?module-path=a{character}b"),
    ):
        if allowed:
            uri = KeyURI.parse(text)
            assert uri.get("object" if text.startswith("pkcs11:o") else "module-path") == f"a{character}b"
        elif structure or character == "%":
            with pytest.raises(KeyURIError):
                KeyURI.parse(text)
        else:
            with pytest.raises(KeyURIError, match="percent-encoding"):
                KeyURI.parse(text)


@given(
    st.dictionaries(st.sampled_from(["token", "object", "id", "v_1"]), st.binary(max_size=40)),
    st.dictionaries(st.sampled_from(["module-path", "module-name", "V-2"]), st.binary(max_size=40)),
    st.sampled_from(["pkcs11", "tpm2"]),
)
def test_round_trip(path: dict[str, bytes], query: dict[str, bytes], scheme: str) -> None:
    uri = KeyURI(scheme, path, query)
    assert KeyURI.parse(str(uri)) == uri
    assert hash(KeyURI.parse(str(uri))) == hash(uri)
    assert KeyURI.parse(uri.identity).path == uri.path


@given(st.text())
def test_any_text(text: str) -> None:
    """Parses, or is refused; nothing else."""
    try:
        uri = KeyURI.parse(text)
    except KeyURIError:
        return
    assert KeyURI.parse(str(uri)) == uri


def test_id_is_encoded_whole() -> None:
    assert str(KeyURI("pkcs11", {"id": b"aZ\x00"})) == "pkcs11:id=%61%5A%00"
    assert str(KeyURI("other", {"id": b"aZ"})) == "other:id=aZ"


def test_scheme_in_any_case() -> None:
    assert KeyURI.parse("PKCS11:token=A") == KeyURI("pkcs11", {"token": "A"})


def test_slash_in_path_of_other_schemes() -> None:
    assert KeyURI.parse("tpm2:file=/etc/key.pem").get("file") == "/etc/key.pem"
    assert str(KeyURI("tpm2", {"file": "/etc/key.pem"})) == "tpm2:file=/etc/key.pem"
    with pytest.raises(KeyURIError, match="percent-encoding"):
        KeyURI.parse("pkcs11:object=a/b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pkcs11:token=a;token=b", "'token' is given twice"),
        ("pkcs11:?module-path=/a&module-path=/b", "'module-path' is given twice"),
        ("pkcs11:x=1?x=1", "'x' stands both before and after"),
        ("pkcs11:token", "not name=value"),
        ("pkcs11:token=a;", "not name=value"),
        ("pkcs11:;", "not name=value"),
        ("pkcs11:?a=1&", "not name=value"),
        ("pkcs11:=a", "name is empty or holds"),
        ("pkcs11:to%6ben=a", "name is empty or holds"),
        ("pkcs11:töken=a", "name is empty or holds"),
        ("pkcs11:token=%", "two hexadecimal digits"),
        ("pkcs11:token=%2", "two hexadecimal digits"),
        ("pkcs11:token=%zz", "two hexadecimal digits"),
        ("pkcs11:token=ä", "holds 'ä', which must be written in percent-encoding"),
        ("pkcs11:token=a b", "holds ' ', which must"),
        ("pkcs11:token=a\n", r"holds '\\n', which must"),
        ("pkcs11:token=a#fragment", "holds '#', which must"),
    ],
)
def test_malformed(text: str, said: str) -> None:
    with pytest.raises(KeyURIError, match=said):
        KeyURI.parse(text)


@pytest.mark.parametrize(
    "text", ["", "wJalrXUtnFEMI/K7MDENG", "/etc/key", "1abc:x=y", "a b:c=d", "schlüssel:x=1", "x" * 40 + ":"]
)
def test_no_scheme_is_not_shown(text: str) -> None:
    with pytest.raises(KeyURIError, match="not a key URI") as caught:
        KeyURI.parse(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:object=prod?pin-value=s3cr3t",
        "pkcs11:object=prod;pin-value=s3cr3t",
        "pkcs11:object=prod?PIN-VALUE=s3cr3t",
        "pkcs11:object=prod?pin=s3cr3t",
        "tpm2:handle=0x81?auth-value=s3cr3t",
        "vault:key=a?secret-id=s3cr3t",
    ],
)
def test_secret_in_it(text: str) -> None:
    with pytest.raises(KeyURIError, match=r"would put a secret into the URI.*; use ") as caught:
        KeyURI.parse(text)
    assert "s3cr3t" not in str(caught.value)


def test_secret_in_it_by_program() -> None:
    with pytest.raises(KeyURIError, match="would put a secret"):
        KeyURI("pkcs11", {"object": "prod"}, {"pin-value": "1234"})
    with pytest.raises(KeyURIError, match="would put a secret"):
        KeyURI("pkcs11", {"object": "prod"}).replace(pin_value="1234")


@pytest.mark.parametrize("value", ["s3cr3t", "", "File:x", "s3cr3t:x", "prompt%20s3cr3t", "..%2Fs3cr3t"])
@pytest.mark.parametrize("name", ["pin-source", "token-source", "any-source"])
def test_secret_in_place_of_its_source(name: str, value: str) -> None:
    for text in (f"pkcs11:object=prod?{name}={value}", f"pkcs11:object=prod;{name}={value}"):
        with pytest.raises(KeyURIError, match=f"'{name}' says where the secret is: file:/path") as caught:
            KeyURI.parse(text)
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["file:/a", "file:///a", "file:a", "/a", "env:A", "cmd:a%20b%0Ac", "prompt", "|/usr/lib/pinomatic"]
)
def test_source_by_its_form(value: str) -> None:
    assert KeyURI.parse(f"pkcs11:object=prod?pin-source={value}").raw("pin-source") == unquote_to_bytes(value)


def test_value_is_not_shown() -> None:
    for text in ("pkcs11:token=s3cr3t%", "pkcs11:unknown=s3cr3t", "pkcs11:s3cr3t", "pkcs11:token=s3cr3t;token=s3cr3t"):
        with pytest.raises(KeyURIError) as caught:
            KeyURI.parse(text).check(path=("token",))
        assert "s3cr3t" not in str(caught.value)


def test_check() -> None:
    known = {"path": ("token", "object"), "query": ("module-path",)}
    KeyURI.parse("pkcs11:token=a?module-path=/b").check(**known)
    for text, said in (
        ("pkcs11:tokn=a", "unknown attribute 'tokn'; did you mean 'token'"),
        ("pkcs11:x9=a", "unknown attribute 'x9'; there are module-path, object, token"),
        ("pkcs11:Token=a", "unknown attribute 'Token'; did you mean 'token'"),
        ("pkcs11:?token=a", r"'token' belongs before '\?'"),
        ("pkcs11:module-path=a", r"'module-path' belongs after '\?'"),
    ):
        with pytest.raises(KeyURIError, match=said):
            KeyURI.parse(text).check(**known)


def test_values() -> None:
    uri = KeyURI.parse("x:a=%00;b=%ff;c=;d=%C3%A4?e=1")
    assert (uri.raw("a"), uri.raw("b"), uri.raw("c"), uri.raw("e"), uri.raw("f")) == (b"\0", b"\xff", b"", b"1", None)
    assert (uri.get("d"), uri.get("c"), uri.get("f"), uri.get("f", "g")) == ("ä", "", None, "g")
    for name, said in (("a", "holds a NUL"), ("b", "is not UTF-8")):
        with pytest.raises(KeyURIError, match=said):
            uri.get(name)
    assert uri.require("d") == "ä"
    for name, said in (("c", "is empty"), ("f", "is missing")):
        with pytest.raises(KeyURIError, match=said):
            uri.require(name)


def test_replace() -> None:
    uri = KeyURI.parse("x:a=1;b=2?c-d=3")
    assert str(uri.replace(a="9", b=None, c_d="/", e="5")) == "x:a=9;e=5?c-d=/"
    assert str(uri) == "x:a=1;b=2?c-d=3"


def test_identity_leaves_out_how_to_reach_it() -> None:
    uri = KeyURI.parse("pkcs11:token=a;object=b%20c?module-path=/m&pin-source=cmd:pass%20show%20pin")
    assert uri.identity == "pkcs11:token=a;object=b%20c"
    assert repr(uri) == "KeyURI('pkcs11:token=a;object=b%20c?module-path=/m&pin-source=cmd:pass%20show%20pin')"


def test_equality_and_immutability() -> None:
    uri = KeyURI.parse("x:a=%61;b=2")
    assert uri == KeyURI.parse("x:b=2;a=a")
    assert uri != KeyURI.parse("x:b=2;a=A")
    assert uri != "x:a=a;b=2"
    with pytest.raises(TypeError):
        uri.path["a"] = b"b"  # type: ignore[index] # what is tested
    assert copy.copy(uri) == copy.deepcopy(uri) == pickle.loads(pickle.dumps(uri)) == uri
