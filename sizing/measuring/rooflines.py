"""A device's own roofline, from a recording of its ceilings."""

from __future__ import annotations

from ..hardware import GPU, measured_gpu
from .recording import Recording


def roofline(recording: Recording) -> GPU:
    """The measured device as a `GPU`, to be used wherever a datasheet's is.

    Its peak in each dtype is the fastest product; its bandwidth that of the largest copy, which no
    cache can hold.

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
        max(copies, key=lambda row: row["size"])["bytes_per_second"],
        int(facts["memory"].split()[0]),
        source=f"{facts['command']}, {facts['date']}",
    )
