"""Files of the learner's own: written whole, and by one notebook at a time."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..measuring.recording import replace_text


class Entries:
    """A JSON list in a file that only ever grows, or, without a file, kept for this session.

    A file that ``valid`` refuses is set aside under another name, never overwritten; ``set_aside``
    is then its new path.
    """

    def __init__(self, path: Path | None, valid: Callable[[Any], bool]):
        self.path, self.valid = path, valid
        self.set_aside: Path | None = None
        self._session: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Everything kept so far, oldest first."""
        if self.path is None:
            return list(self._session)
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            if not self.valid(entries):
                raise ValueError("not a list of what is kept here")
        except FileNotFoundError:
            return []
        except ValueError:  # also what json and utf-8 raise
            self.set_aside = self.path.with_name(f"{self.path.stem}.damaged-{time.time_ns()}.json")
            self.path.rename(self.set_aside)
            return []
        return entries

    def append(self, *entries: dict[str, Any]) -> None:
        """Keep more. OSError if the file cannot be written."""
        if self.path is None:
            self._session += entries
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            text = json.dumps([*self.read(), *entries], indent=1, ensure_ascii=False)
            replace_text(self.path, text)


@contextmanager
def locked(path: Path, patience: float = 2.0) -> Iterator[None]:
    """Keep two notebooks from writing at once. A lock left by a killed kernel is taken over."""
    lock = path.with_name(path.name + ".lock")
    end = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > end:
                lock.unlink(missing_ok=True)
            time.sleep(0.005)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
