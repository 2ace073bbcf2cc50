"""A device's own roofline, from a recording of its ceilings: the one home of what it can reach."""

from __future__ import annotations

from ..hardware import GPU, measured_gpu
from .recording import Recording, devices, load, own


def roofline(recording: Recording) -> GPU:
    """The measured device as a `GPU`, to be used wherever a datasheet's is.

    Its peak in each dtype is that of the fastest product, its bandwidth that of the fastest copy:
    copies of every size pass through memory, because the experiment leaves none in a cache.

    Raises:
        ValueError: the recording is not one of "ceilings", or lacks products or copies.
    """
    if recording.name != "ceilings":
        raise ValueError(f"recording: {recording.name!r} given; allowed: 'ceilings'")
    products = [row for row in recording.ok if row["kind"] == "matmul"]
    copies = [row for row in recording.ok if row["kind"] == "copy"]
    if not products or not copies:
        raise ValueError("recording: it needs rows of matmul and of copy, and lacks one")
    peak = {}
    for row in products:
        peak[row["dtype"]] = max(peak.get(row["dtype"], 0.0), row["flops_per_second"])
    facts = recording.provenance
    return measured_gpu(
        facts["device"],
        peak,
        max(row["bytes_per_second"] for row in copies),
        int(facts["memory"].split()[0]),
        source=f"{facts['command']}, {facts['date']}",
    )


def roofline_of(recording: Recording) -> GPU:
    """The roofline of the device that any recording was made on.

    From the learner's newest ceilings if they are of that device, else from the course's.

    Raises:
        ValueError: no ceilings are recorded on that device.
    """
    newest = own("ceilings")
    if newest and newest.device == recording.device:
        return roofline(newest)
    if recording.device not in (known := devices("ceilings")):
        raise ValueError(
            f"recording: of {recording.device!r}, where the experiment 'ceilings' was not run "
            f"(lesson 00 runs it); allowed: {', '.join(known)}"
        )
    return roofline(load("ceilings", recording.device))
