"""How often to save, what that costs, and what the storage must take up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..units import positive


def young(save: float, mtbf: float) -> float:
    """Seconds of work between saves that lose least: sqrt(2 δ M).

    Args:
        save: δ, seconds that a save keeps the GPUs from working.
        mtbf: M, mean seconds between failures of the whole job.

    Source: Young 1974, doi:10.1145/361147.361115, equation 6; for δ much below M.
    """
    positive("save", save)
    positive("mtbf", mtbf)
    return math.sqrt(2 * save * mtbf)


def daly(save: float, mtbf: float) -> float:
    """The same to a higher order: sqrt(2δM) (1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ, and M from δ = 2M.

    Source: Daly 2006, doi:10.1016/j.future.2004.11.016, equation 37.
    """
    positive("save", save)
    positive("mtbf", mtbf)
    if save >= 2 * mtbf:
        return mtbf
    ratio = save / (2 * mtbf)
    return math.sqrt(2 * save * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def useful_share(interval: float, save: float, mtbf: float, restart: float = 0.0) -> float:
    """Share of the wall-clock time that is work which lasts, with failures at random.

    T / T_work = M e^(R/M) (e^((τ+δ)/M) - 1) / τ for work τ between saves of δ and restarts of R:
    failures may strike during saves and restarts too.

    Args:
        interval: τ, seconds of work between saves.
        save: δ, seconds that a save stops the work.
        mtbf: M, mean seconds between failures of the whole job; infinity for none.
        restart: R, seconds from a failure to the first step after it.

    Source: Daly 2006, doi:10.1016/j.future.2004.11.016, equation 20.
    """
    positive("interval", interval)
    if mtbf == math.inf:
        return interval / (interval + save)
    positive("mtbf", mtbf)
    # 1 / (e^x - 1) as e^-x / (1 - e^-x), which is finite for any x
    work = (interval + save) / mtbf
    return interval / mtbf * math.exp(-restart / mtbf - work) / -math.expm1(-work)


@dataclass(frozen=True)
class Saving:
    """How a run saves.

    Attributes:
        size: bytes of a checkpoint.
        stall: seconds that a save stops the GPUs: all of it, or the copy to the host's memory.
        write: seconds until the checkpoint is on disk.
        interval: seconds of work between two saves.
        useful: share of the time that is work which lasts.
        rate: bytes/s that the storage must take up, so that one save ends before the next.
        burst: bytes/s that it must take up for `stall` to be as short as it is, when synchronous.
    """

    size: int
    stall: float
    write: float
    interval: float
    useful: float

    @property
    def rate(self) -> float:
        return self.size / (self.interval + self.stall)

    @property
    def burst(self) -> float:
        return self.size / self.write

    @property
    def lost(self) -> float:
        return 1 - self.useful


PINNED = 25e9  # bytes/s from a GPU to the host: PCIe 4 x16 carries 31.5e9, a copy some 80 % of it


def saving(
    size: float,
    mtbf: float,
    *,
    disk: float,
    gpus: int = 1,
    asynchronous: bool = False,
    restart: float = 0.0,
    interval: float | None = None,
    host: float = PINNED,
) -> Saving:
    """When to save, what it costs, and what the storage must be able to do.

    Args:
        size: bytes of a checkpoint, as `checkpoint(run).total`.
        mtbf: mean seconds between failures of the whole job.
        disk: bytes/s that the storage takes from all ranks together.
        gpus: ranks that write at the same time.
        asynchronous: whether training goes on once the state is copied to the host's memory.
        restart: seconds from a failure to the first step.
        interval: seconds of work between saves; by default Daly's best, but not shorter than the
            write of the save before.
        host: bytes/s from one GPU to its host.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for field, value in (("size", size), ("disk", disk), ("host", host), ("gpus", gpus)):
        positive(field, value)
    write = size / disk
    copy = size / gpus / host
    stall = copy if asynchronous else copy + write
    if interval is None:
        interval = daly(stall, mtbf) if mtbf != math.inf else 3600.0
        if asynchronous:
            interval = max(interval, write)
    # What an asynchronous save has not yet brought to disk is lost with a failure, too.
    late = write / 2 if asynchronous else 0.0
    useful = useful_share(interval, stall, mtbf, restart)
    if late and mtbf != math.inf:
        useful *= 1 - min(0.5, late / mtbf)
    return Saving(round(size), stall, write, interval, useful)
