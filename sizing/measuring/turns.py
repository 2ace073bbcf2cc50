"""Turns at a machine that a room shares: experiments wait for each other, in a line that all see.

Nothing waits unless ``SIZING_QUEUE`` names a folder that all learners of the machine can write to,
as the workshop's hub sets it. Who comes puts a ticket there; the oldest ticket whose process lives
measures, under a lock that the system releases when its holder dies. A learner who will not wait
sets ``SIZING_RECORDED=1`` and sees the recording.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import psutil

LOOK = 0.5  # seconds between two looks at the line


def queue_folder() -> Path | None:
    """The folder of the line, or None where nobody waits."""
    named = os.environ.get("SIZING_QUEUE", "")
    return Path(named) if named else None


def waiting(folder: Path) -> list[dict]:
    """The line: tickets of processes that live, oldest first. Those of dead ones are ignored."""
    line = []
    for path in sorted(folder.glob("*.ticket")):
        try:
            ticket = json.loads(path.read_text(encoding="utf-8"))
            if psutil.Process(ticket["pid"]).create_time() == ticket["started"]:
                line.append(ticket | {"file": path.name})
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            continue  # taken away as we looked, half written, or its process is gone
    return line


def words(line: list[dict], own: str) -> str:
    """Where a ticket stands, in a sentence; names no learner."""
    place = [ticket["file"] for ticket in line].index(own)
    first = line[0]
    since = max(0, time.time() - first["time"])
    before = "1 other is" if place == 1 else f"{place} others are"
    return (
        f"{before} before you at this machine; {first['experiment']} came {since:.0f} s ago. "
        "Interrupt to leave the line; SIZING_RECORDED=1 shows the recording."
    )


@contextmanager
def turn(experiment: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Wait for one's turn, then hold it. Interrupting the wait leaves the line.

    Args:
        experiment: its name, for those who wait behind.
        say: is given the words of the line whenever they change; by default they go to stderr.

    Raises:
        PermissionError: the folder of the line cannot be written to; names it.
    """
    folder = queue_folder()
    if folder is None:
        yield
        return
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ticket = _take(folder, experiment)
    except OSError as error:
        raise PermissionError(
            f"SIZING_QUEUE: {folder} given; allowed: a folder that all learners can write to "
            f"({error.strerror})"
        ) from error
    try:
        place = None
        while (line := waiting(folder)) and line[0]["file"] != ticket.name:
            if (now := len(line)) != place:
                say(words(line, ticket.name))
                place = now
            time.sleep(LOOK)
        with filelock.FileLock(folder / "machine.lock", mode=0o666):
            yield
    finally:
        ticket.unlink(missing_ok=True)


def _take(folder: Path, experiment: str) -> Path:
    """A ticket whose name sorts by the time of arrival; whole as soon as it has its name."""
    own = psutil.Process()
    facts = {"pid": own.pid, "started": own.create_time(), "time": time.time()}
    path = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.ticket"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts | {"experiment": experiment}), encoding="utf-8")
    part.chmod(0o644)
    part.replace(path)
    return path
