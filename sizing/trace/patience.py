"""A bar that shows how long something takes that cannot say how far it is."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager

from tqdm.auto import tqdm

SILENT = 2.0  # seconds before a bar is shown


@contextmanager
def waiting(what: str):
    """Shows `what` and the seconds that it has taken, from the second second on.

    Nothing is shown where outputs must be the same on every machine (SIZING_RECORDED).
    """
    done = threading.Event()
    clock = threading.Thread(target=_show, args=(what, done), daemon=True)
    if os.environ.get("SIZING_RECORDED", "") in ("", "0"):
        clock.start()
    try:
        yield
    finally:
        done.set()
        if clock.is_alive():
            clock.join()


def _show(what: str, done: threading.Event) -> None:
    begun = time.monotonic()
    if done.wait(SILENT):
        return
    with tqdm(desc=what, bar_format="{desc}: {n:.0f} s", leave=False) as bar:
        while True:
            bar.n = time.monotonic() - begun
            bar.refresh()
            if done.wait(0.5):
                return
