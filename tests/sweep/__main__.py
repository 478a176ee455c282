"""``make sweep``: compares every operation of every service; see `tests.sweep.compare`."""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("services", nargs="*", help="only these; all if left out")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of all services, only every Nth")
    parser.add_argument("--crt", action="store_true", help="leave awscrt to botocore; needs --against")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with these hashes, not with stock")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--digests", type=Path, metavar="FILE", help="write a hash of each direct request as JSON")
    arguments = parser.parse_args()
    if arguments.crt and not arguments.against:
        parser.error("stock botocore signs by awscrt then, in another order of headers: give --against")
    # Stock botocore signs in Python then, and its requests are comparable byte for byte.
    os.environ["BOTO_DISABLE_CRT"] = "false" if arguments.crt else "true"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull

    from tests.sweep.compare import Result, exceptions, services, sweep_whole, unexpected

    start = time.monotonic()
    names = arguments.services or []
    if not names or arguments.every > 1:
        names = sorted({*names, *services()[:: arguments.every]})
    results: list[Result] = []  # of all services
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        for part in pool.map(sweep_whole, names):
            results += part
    if arguments.digests:
        arguments.digests.write_text(json.dumps({r.name: r.digest for r in results if r.digest}, indent=0))
    seconds = f"{time.monotonic() - start:.0f} s"
    if arguments.against:
        before = json.loads(arguments.against.read_text())
        seen = {r.name: r.digest for r in results if r.digest}
        differ = sorted(name for name in seen.keys() & before.keys() if seen[name] != before[name])
        differ += sorted(name for name in seen.keys() ^ before.keys() if name.partition(".")[0] in names)
        for name in differ:
            print(f"different: {name}", file=sys.stderr)
        crt = "with" if arguments.crt else "without"
        print(f"{len(names)} services, {len(seen)} requests {crt} awscrt: {len(differ)} differ; {seconds}")
        return 1 if differ else 0

    counts = Counter(result.verdict for result in results)
    wrong = unexpected(results)
    for result in wrong:
        print(f"{result.verdict}: {result.name}: {result.detail}", file=sys.stderr)
    stale = [
        pattern
        for pattern in exceptions()
        if not (arguments.services or arguments.every > 1)
        and not any(r.verdict not in ("same", "unmade") and fnmatch.fnmatchcase(r.name, pattern) for r in results)
    ]
    for pattern in stale:
        print(f"exceptions.txt: {pattern} differs no longer", file=sys.stderr)
    print(
        f"{len(names)} services, {len(results)} requests: "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("same", "different", "refused", "unmade"))
        + f"; {len(wrong)} unexpected; {seconds}"
    )
    why = Counter(result.detail.partition(":")[0] for result in results if result.verdict == "unmade")
    print("unmade: " + ", ".join(f"{count} {name}" for name, count in why.most_common()))
    return 1 if wrong or stale else 0


if __name__ == "__main__":
    sys.exit(main())
