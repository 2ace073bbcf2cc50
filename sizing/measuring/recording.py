"""Recordings: the rows of one experiment on one device, and how they were made.

A recording is a CSV file that begins with its provenance, one ``# key: value`` line each. The
course's own live in ``data/measurements/<device>/<experiment>.csv``; a learner's runs are kept
beside each other in the learner's directory and are never overwritten. Nothing here needs torch,
so that reading a measurement costs nothing.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..units import DATA

MEASUREMENTS = DATA / "measurements"
REFERENCE = "amd-epyc-2-core"  # the CPU whose recordings stand in the lessons
OK, OUT_OF_MEMORY, UNAVAILABLE = "ok", "out of memory", "not available"


@dataclass(frozen=True)
class Recording:
    """Rows measured by one experiment on one device.

    Attributes:
        name: the experiment.
        device: slug of the device, such as ``h100-80gb-hbm3``.
        rows: one dictionary a row; ``status`` is "ok", "out of memory" or "not available" and
            ``note`` says why. A cell that was not measured is None.
        provenance: how the rows were made: device, driver, versions, date, commit, command.
    """

    name: str
    device: str
    rows: list[dict]
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def gpu(self) -> bool:
        """Whether a GPU was measured."""
        return self.provenance.get("kind") == "cuda"

    @property
    def ok(self) -> list[dict]:
        """The rows that were measured, without those that did not fit or could not run."""
        return [row for row in self.rows if row["status"] == OK]

    def where(self, **values) -> Recording:
        """The rows whose columns have these values, as a recording."""
        rows = [row for row in self.rows if all(row.get(k) == v for k, v in values.items())]
        return Recording(self.name, self.device, rows, self.provenance)

    def column(self, key: str) -> list:
        """One column over all rows; None where a row has no value.

        Raises:
            ValueError: no row has this column.
        """
        columns = _columns(self.rows)
        if key not in columns:
            raise ValueError(
                f"column: {key!r} is not in {self.name}; allowed: {', '.join(columns)}"
            )
        return [row.get(key) for row in self.rows]

    def frame(self):
        """The rows as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows, columns=_columns(self.rows))

    def __repr__(self) -> str:
        date = self.provenance.get("date", "no date")
        return f"Recording({self.name!r}, {self.device!r}, {len(self.rows)} rows, {date})"


def write(recording: Recording, path: Path) -> Path:
    """Write a recording as CSV under its provenance; a reader never sees half a file."""
    text = io.StringIO()
    for key, value in recording.provenance.items():
        text.write(f"# {key}: {value}\n")
    table = csv.DictWriter(text, _columns(recording.rows), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(recording.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text.getvalue())
    return path


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, sees the old text or the new, never half.

    Raises:
        OSError: it cannot be written, on a full disk for one; names the file, which is as it was.
    """
    part = None
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
        os.replace(part, path)
    except OSError as error:
        if part:
            Path(part).unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"{error.strerror}: what was to be kept in {path.name} is not; what it held before is. "
            "Free some space, or name another folder in SIZING_LEARNER_DIR",
        ) from error


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read(path: Path) -> Recording:
    """Read a recording that `write` wrote; numbers come back as numbers, empty cells as None."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("# ")]
    provenance = dict(line[2:].split(": ", 1) for line in head)
    table = csv.DictReader(lines[len(head) :])
    rows = [{key: _value(text) for key, text in row.items()} for row in table]
    return Recording(path.name.split(".")[0], path.parent.name, rows, provenance)


def recorded_only() -> bool:
    """Whether ``SIZING_RECORDED=1`` asks for the course's recordings instead of live runs."""
    return os.environ.get("SIZING_RECORDED", "") not in ("", "0")


def learner_directory() -> Path:
    """Where a learner's own runs are kept: ``SIZING_LEARNER_DIR``, or .learner in the course."""
    chosen = os.environ.get("SIZING_LEARNER_DIR")
    return (Path(chosen) if chosen else DATA.parent / ".learner") / "measurements"


def new_file(name: str, device: str) -> Path:
    """A file for a learner's run that does not exist yet; its name sorts by time."""
    directory = learner_directory() / device
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = directory / f"{name}.{stamp}.csv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)  # two runs in one microsecond: an error, not a lost run
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}: {directory} cannot be written to, so nothing was measured. Name a "
            "folder of your own in SIZING_LEARNER_DIR",
        ) from error
    return path


def load(name: str, device: str | None = None) -> Recording:
    """A recording of an experiment.

    Args:
        name: the experiment, such as ``"model-size"``.
        device: a device's slug or the beginning of one (``"h100"``). By default the learner's
            newest run, or without one (and always with ``SIZING_RECORDED=1``) the reference CPU's.

    Raises:
        ValueError: nothing is recorded under this name or on this device.
    """
    if device is None:
        return own(name) or load(name, reference(name))
    found = _files(name)
    matches = [device] if device in found else [slug for slug in found if slug.startswith(device)]
    if not found:
        raise ValueError(f"name: no recording of {name!r}; allowed: {_listed(recorded_names())}")
    if not matches:
        raise ValueError(
            f"device: {name!r} is not recorded on {device!r}; allowed: {_listed(found)}"
        )
    if len(matches) > 1:
        raise ValueError(f"device: {device!r} is ambiguous; allowed: {_listed(matches)}")
    return read(found[matches[0]])


def reference(name: str) -> str:
    """Slug of the CPU whose recording of an experiment stands in the lessons."""
    shipped = sorted(path.parent.name for path in MEASUREMENTS.glob(f"*/{name}.csv"))
    return REFERENCE if REFERENCE in shipped or not shipped else shipped[0]


def own(name: str) -> Recording | None:
    """The learner's newest run of an experiment; None without one or with ``SIZING_RECORDED=1``."""
    if recorded_only():
        return None
    runs = _runs(learner_directory(), name)
    return read(max(runs, key=lambda path: path.name)) if runs else None


def recordings(name: str, gpu: bool | None = None) -> list[Recording]:
    """The course's recordings of an experiment, one a device.

    Args:
        gpu: True for GPUs alone, False for CPUs alone, None for all. The list may be empty.
    """
    found = [read(path) for path in sorted(MEASUREMENTS.glob(f"*/{name}.csv"))]
    return [recording for recording in found if gpu is None or recording.gpu == gpu]


def devices(name: str) -> tuple[str, ...]:
    """Slugs of the devices on which an experiment is recorded, the learner's own included."""
    return tuple(_files(name))


def recorded_names() -> list[str]:
    """Names of the experiments that have a recording."""
    return sorted({path.stem for path in MEASUREMENTS.glob("*/*.csv")})


def _files(name: str) -> dict[str, Path]:
    """Newest file of each device; the course's recording goes before a learner's run."""
    own_runs = [] if recorded_only() else sorted(_runs(learner_directory(), name))
    shipped = MEASUREMENTS.glob(f"*/{name}.csv")
    files = {path.parent.name: path for path in [*own_runs, *shipped]}
    return dict(sorted(files.items()))


def _runs(directory: Path, name: str) -> list[Path]:
    """A learner's runs that hold rows: a run stopped before its first row leaves an empty file."""
    return [path for path in directory.glob(f"*/{name}.*.csv") if path.stat().st_size]


def _columns(rows: Iterable[dict]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _value(text: str) -> int | float | str | None:
    if text == "":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
