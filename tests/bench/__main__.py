"""``make bench``: runs every module of this folder, or those that are named: ``python -m tests.bench signing``."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path


def machine() -> str:
    """Returns what a figure depends on: processor, cores, interpreter."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
        model = (names or [model])[0] + (", SHA extensions" if " sha_ni" in text else ", no SHA extensions")
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", free-threaded"
    system = f"{platform.system()} {platform.release()}"
    return f"{model}; {os.cpu_count()} cores; {system}; Python {platform.python_version()}{gil}"


def main() -> int:
    """Runs each module's ``main()``; the status is 1 if one missed its goals."""
    names = sys.argv[1:] or sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    print(machine())
    missed = False
    for name in names:
        print(f"\n== {name}", flush=True)
        missed |= bool(importlib.import_module(f"tests.bench.{name}").main())
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
