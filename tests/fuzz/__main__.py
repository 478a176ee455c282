"""``make fuzz``: random requests, signed by aws-hmac and by botocore at a frozen clock.

Each request has two spellings of one meaning. The *canonical* one is percent-encoded as the specification's
canonical request has it; botocore, which signs a URL as it stands, is the oracle for it. The *free* one is how
a person, a browser or another library might write the same (raw blanks and UTF-8, lower-case and needless
percent sequences, ``+``, keys without ``=``). Then

1. aws-hmac on the canonical spelling and botocore on the canonical spelling agree, always;
2. aws-hmac on the free spelling gives the same signature, always;
3. botocore on the free spelling may disagree. Each time it does, one of the reasons below must apply, and they
   are counted. A disagreement without a reason is a failure.

The same seed makes the same requests.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
import warnings
from collections import Counter
from typing import NamedTuple
from urllib.parse import quote

from aws_hmac import Signer
from aws_hmac_backends.memory import MemoryBackend
from tests.oracle import ACCESS_KEY_ID, AT, S3_KIN, SECRET, botocore_clock, botocore_presign, botocore_sign

REASONS = {
    "path spelling": "botocore signs the path as it stands; a client sends it encoded, and S3 decodes it first",
    "query spelling": "botocore signs the query as it stands; a server decodes each key and value and encodes it once",
    "empty query part": "botocore makes a nameless parameter of an empty part between ampersands; servers skip it",
    "repeated key, presigned": "botocore keeps one value of a repeated key in a presigned URL, and drops the others",
}
"""Why botocore's signature of the free spelling differs, and ours is the specification's."""

SERVICES = ["dynamodb", "sts", "execute-api", "es", "s3", "s3", "s3-outposts", "s3-object-lambda", "s3express"]
HOSTS = [
    "example.amazonaws.com",
    "Example.COM:8443",
    "127.0.0.1:9000",
    "[::1]",
    "[2001:DB8::1]:8080",
    "a.b:443",
    "a.b:80",
]
METHODS = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "get", "Post"]
UNRESERVED = "abcXYZ019-._~"
OTHERS = " !\"#$&'()*+,/:;<=>?@[]^`{|}%\\éüßሴ日😀\u00a0\x01\x7f"
NAMES = [
    *(
        "X-Amz-Target",
        "Content-Type",
        "content-length",
        "X-A",
        "x-a",
        "X-A-B",
        "X-AB",
        "X_U",
        "Range",
        "If-Match",
        "Accept",
    ),
    *("User-Agent", "Connection", "TE", "expect", "x-amzn-trace-id"),
]
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


class Request(NamedTuple):
    """One request in both spellings."""

    method: str
    canonical_url: str
    free_url: str
    service: str
    region: str
    headers: list[tuple[str, str]]
    body: bytes
    token: str | None
    expires: int | None
    reasons: frozenset[str]


def make(rng: random.Random) -> Request:
    """Makes one request."""
    service = rng.choice(SERVICES)
    s3 = service in S3_KIN
    expires = rng.randint(1, 604800) if rng.random() < 0.4 else None
    reasons = set()

    segments = [
        rng.choice(["", ".", "..", "..."]) if rng.random() < 0.15 else word(rng) for _ in range(rng.randint(0, 4))
    ]
    path, free_path = "", ""
    for segment in segments:
        path += "/" + encoded(segment, s3)
        free_path += "/" + (spelled(rng, segment, s3) if s3 else on_the_wire_later(rng, segment))
    if path != free_path:
        reasons.add("path spelling")
    if not path:
        path = free_path = rng.choice(["", "/"])
        if path == "" and s3:
            path = "/"  # what is sent; botocore's S3 signer takes an empty path for empty
            reasons.add("path spelling")

    pairs = [(word(rng), word(rng)) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
    if pairs and rng.random() < 0.3:
        pairs.append((rng.choice(pairs)[0], word(rng)))
    pairs = [(key, value) for key, value in pairs if key]
    canonical = [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs]
    free = [spelled_pair(rng, key, value) for key, value in pairs]
    if canonical != free and [part.partition("=")[::2] for part in canonical] != [p.partition("=")[::2] for p in free]:
        reasons.add("query spelling")
    if pairs and rng.random() < 0.05:
        free.insert(rng.randrange(len(free) + 1), "")
        reasons.add("empty query part")
    if expires is not None and len({key for key, _ in pairs}) < len(pairs):
        reasons.add("repeated key, presigned")

    origin = f"{rng.choice(['http', 'https'])}://{rng.choice(HOSTS)}"
    headers = [(rng.choice(NAMES), header_value(rng)) for _ in range(rng.randint(0, 5))]
    return Request(
        method=rng.choice(METHODS),
        canonical_url=origin + path + ("?" + "&".join(canonical) if canonical else ""),
        free_url=origin + free_path + ("?" + "&".join(free) if free else ""),
        service=service,
        region=rng.choice(["us-east-1", "eu-west-1", "RegionOne"]),
        headers=headers,
        body=b"" if expires is not None else rng.randbytes(rng.choice([0, 0, 5, 64])),
        token="a/token+of==" if rng.random() < 0.2 else None,
        expires=expires,
        reasons=frozenset(reasons),
    )


def word(rng: random.Random) -> str:
    """A few characters, mostly plain."""
    return "".join(
        rng.choice(OTHERS) if rng.random() < 0.2 else rng.choice(UNRESERVED) for _ in range(rng.randint(0, 6))
    )


def header_value(rng: random.Random) -> str:
    """A header's value with runs of blanks and tabs."""
    parts = ["".join(rng.choice(VISIBLE) for _ in range(rng.randint(0, 6))) for _ in range(rng.randint(0, 3))]
    return rng.choice(["", " ", "  ", "\t"]) + rng.choice([" ", "   ", "\t", " \t"]).join(parts) + rng.choice(["", " "])


def encoded(segment: str, s3: bool) -> str:
    """A path segment percent-encoded once; to S3 a slash is one, however it is spelled."""
    return quote(segment, safe="/" if s3 else "")


def spelled(rng: random.Random, text: str, s3: bool = False) -> str:
    """The same text, each byte spelled in some way that decodes to it."""
    out = ""
    for character in text:
        for_sure = "".join(f"%{byte:02X}" for byte in character.encode())
        choice = rng.random()
        if choice < 0.3:
            out += for_sure if not (s3 and character == "/") else "/"
        elif choice < 0.5:
            out += for_sure.lower()
        elif character in "%#&=+?" or (character in "/\\" and not s3):
            out += for_sure  # raw it would mean something else
        else:
            out += character
    return out


def on_the_wire_later(rng: random.Random, segment: str) -> str:
    """The same segment with raw what every client encodes before sending: the wire must stay the same."""
    out = ""
    for character in segment:
        raw = ord(character) <= 0x20 or ord(character) >= 0x7F or character in '"<>\\^`{|}[]'
        out += character if raw and rng.random() < 0.5 else quote(character, safe="")
    return out


def spelled_pair(rng: random.Random, key: str, text: str) -> str:
    """A parameter in some spelling: blanks may be plus signs, an empty value needs no equals sign."""
    if rng.random() < 0.5:
        return f"{quote(key, safe='')}={quote(text, safe='')}" if text or rng.random() < 0.5 else quote(key, safe="")
    spelled_key = spelled(rng, key).replace(" ", "+" if rng.random() < 0.5 else " ")
    spelled_text = spelled(rng, text).replace(" ", "+" if rng.random() < 0.5 else " ")
    return f"{spelled_key}={spelled_text}"


class Failure(Exception):  # noqa: N818 - it is what was found
    """Two signatures that had to be equal are not."""


def check(request: Request, signers: dict[str | None, Signer]) -> Counter[str]:
    """Signs one request in every way; returns what was counted."""
    signer = signers[request.token]
    common = {"service": request.service, "region": request.region, "headers": request.headers, "body": request.body}

    def ours(url: str) -> str:
        if request.expires is None:
            return signer.sign(request.method, url, at=AT, **common)["Authorization"].rpartition("=")[2]  # type: ignore[arg-type] # the dict's values are what their names say
        return signer.presign(request.method, url, expires=request.expires, at=AT, **common).rpartition("=")[2]  # type: ignore[arg-type] # likewise

    def botocores(url: str) -> str:
        if request.expires is None:
            return botocore_sign(request.method, url, token=request.token, **common).signature  # type: ignore[arg-type] # likewise
        return botocore_presign(
            request.method, url, expires=request.expires, token=request.token, **common  # type: ignore[arg-type] # likewise
        ).rpartition("=")[2]  # fmt: skip

    counts = Counter({"requests": 1, "presigned" if request.expires else "in headers": 1})
    canonical = ours(request.canonical_url)
    if "repeated key, presigned" in request.reasons:
        counts["botocore cannot be asked: repeated key, presigned"] += 1
    elif canonical != botocores(request.canonical_url):
        raise Failure(f"canonical spelling, ours is not botocore's: {request}")
    else:
        counts["agree on the canonical spelling"] += 1
    if request.free_url == request.canonical_url:
        return counts
    counts["with a free spelling"] += 1
    if ours(request.free_url) != canonical:
        raise Failure(f"free spelling, ours is not that of the canonical one: {request}")
    if botocores(request.free_url) == canonical:
        counts["agree on the free spelling"] += 1
    elif not request.reasons:
        raise Failure(f"free spelling, botocore's differs for no known reason: {request}")
    else:
        counts["botocore differs: " + ", ".join(sorted(request.reasons))] += 1
    return counts


def run(seed: int, count: int) -> Counter[str]:
    """Checks `count` requests of one seed."""
    rng = random.Random(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = MemoryBackend(b"AWS4" + SECRET.encode())
    signers = {token: Signer(ACCESS_KEY_ID, backend, session_token=token) for token in (None, "a/token+of==")}
    counts: Counter[str] = Counter()
    with botocore_clock():
        for _ in range(count):
            counts += check(make(rng), signers)
    return counts


def main() -> int:
    """Runs many seeds over all cores and prints the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="requests (1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (one per core)")
    args = parser.parse_args()
    size = 5000
    batches = [(args.seed + n, min(size, args.count - n * size)) for n in range(-(-args.count // size))]
    start = time.perf_counter()
    counts: Counter[str] = Counter()
    with multiprocessing.Pool(args.jobs) as pool:
        for done, found in enumerate(pool.imap_unordered(_run, batches), 1):
            counts += found
            if done % 20 == 0:
                print(f"{counts['requests']:,}", file=sys.stderr, flush=True)
    for name, number in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{number:>11,}  {name}")
    print("\nWhy botocore differs:")
    for name, why in REASONS.items():
        print(f"  {name}: {why}")
    last = args.seed + len(batches) - 1
    print(f"\nno unexplained disagreement; {time.perf_counter() - start:.0f} s, seeds {args.seed} to {last}")
    return 0


def _run(batch: tuple[int, int]) -> Counter[str]:
    return run(*batch)


if __name__ == "__main__":
    sys.exit(main())
