"""Signals that end a program, so that it can clean up."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interrupts:
    """Turns the signals that end a program into `KeyboardInterrupt`, but not in the middle of something.

    A process that was started and not yet noted would be left behind, and so would what a second Ctrl-C keeps
    from being cleaned up.
    """

    def __init__(self) -> None:
        self._held = 0
        self._pending = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        for number in [getattr(signal, name) for name in names if hasattr(signal, name)]:
            self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as signal.signal returned it

    @contextmanager
    def held(self, *, forever: bool = False) -> Iterator[None]:
        """Holds signals until the block ends; those that came `forever`, when cleaning up, are forgotten."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending and not self._held and not forever:
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._pending = True
        if not self._held:
            raise KeyboardInterrupt
