"""Measures how many HMACs a second a Vault makes for one process: what a fleet's midnight would ask for.

    python examples/vault_load.py KEY_URI [--threads 64] [--requests 20000]
    python examples/vault_load.py 'vault:key=load-test?addr=https://vault:8200'

Take a throw-away key (``vault write -f transit/keys/load-test type=hmac key_size=32``). Every HMAC asks Vault; none is
cached. Needs what ``aws-hmac key policy`` prints.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import time

import aws_hmac


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()

    with aws_hmac.open_backend(options.key) as key:

        def ask(number: int) -> float:
            start = time.perf_counter()
            key.hmac_sha256(b"load test %d" % number)
            return time.perf_counter() - start

        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
            times = sorted(pool.map(ask, range(options.requests)))
        seconds = time.perf_counter() - start
    print(f"{options.requests} HMACs in {seconds:.1f} s: {options.requests / seconds:.0f} a second")
    for percent in (50, 99, 100):
        print(f"{percent:3} % within {times[max(0, len(times) * percent // 100 - 1)] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
