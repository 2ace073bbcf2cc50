"""Published training runs of every engine, and how far `step_time` is from them.

data/published.csv holds a run a row with its source; `sizing.evidence.printed` made it from the
runs as their sources print them, and says what each convention means. No constant belongs to a
source: those of `CALIBRATION` set one constant each, all other rows are judged.
`python -m sizing.evidence published` prints the errors, the worst groups first, and why.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import median

from ..architecture.model import Model
from ..compute import flops
from ..hardware import gpu as find_gpu
from ..run import Lora, Run
from ..speed.step import StepTime, step_time
from ..speed.trust import KINDS, kind_of
from ..units import DATA
from . import printed

PATH = DATA / "published.csv"
# Rows that set a constant of data/rates.csv, at most one for an engine and card: {id: constants}.
CALIBRATION = {
    "measured-292": "contention on h100",
    "m2026-398": "launch of a layer with experts, megatron",
    "measured-401": "contention on a100",
    "measured-310": "flash-1 on h100",
    "measured-365": "flash-1 on a100",
    "bloom": "matmul_share of megatron-deepspeed",
    "m2026-016": "fp8_rate",
    "m2026-126": "matmul_rate of gb200",
    "m2026-129": "fp8_rate of gb200",
    "m2026-536": "matmul_rate of mi300x",
    "m2026-537": "fp8_rate of mi300x",
}
_NUMBERS = (
    "sequence", "micro_batch", "accumulation", "data", "zero", "tensor", "pipeline", "context",
    "expert", "interleave", "replicate",
)  # fmt: skip
_WORDS = ("precision", "scaling", "optimizer", "attention", "engine", "kernels", "dispatch")
COLUMNS = (
    "id", "source", "printed_engine", "engine", "gpu", "node", "network", "name", "model",
    *_NUMBERS, "sequence_parallel", "recompute", "precision", "scaling",
    "optimizer", "attention", "kernels", "dispatch", "overlap_dispatch", "host",
    "lora", "document", "tok_s_gpu", "assumed",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A published run.

    Attributes:
        id, source: which row of the collection, and where it was printed.
        name: the model's, as printed.
        run: what was trained, and how; its engine is one of `Run`'s.
        printed_engine: the engine in the source's words.
        gpu, node, network, host: as `step_time` takes them.
        rate: tokens per second and GPU.
        assumed: what the source does not print and the run assumes, empty if nothing.
    """

    id: str
    source: str
    name: str
    run: Run
    printed_engine: str
    gpu: str
    node: int
    network: float
    host: float
    rate: float
    assumed: str

    @property
    def calibration(self) -> bool:
        return self.id in CALIBRATION

    @property
    def kind(self) -> str:
        """Which of four kinds of run, which are judged apart."""
        return kind_of(self.run)

    @property
    def group(self) -> str:
        """Source, engine and card: what one table or README printed."""
        where = self.source.removeprefix("https://").split("@")[0].split(":")[0].split(" (")[0]
        return f"{where}, {self.printed_engine.split(',')[0]}, {self.gpu}"


@dataclass(frozen=True)
class Compared:
    """A published run beside what `step_time` says of it."""

    row: Row
    time: StepTime

    @cached_property
    def rate(self) -> float:
        """Tokens per second and GPU, predicted."""
        return self.time.tokens_per_second(self.row.run)

    @property
    def error(self) -> float:
        """Predicted over published tokens per second, less one."""
        return self.rate / self.row.rate - 1


@lru_cache
def load(path: Path = PATH) -> tuple[Row, ...]:
    """All rows of data/published.csv."""
    with open(path, newline="", encoding="utf-8") as file:
        return tuple(row_of(row) for row in csv.DictReader(file))


def row_of(row: dict) -> Row:
    """A row of the table, or of `printed.row_of`, as a `Row`."""
    return Row(
        id=row["id"],
        source=row["source"],
        name=row["name"],
        run=Run(
            _model(row["model"], row["name"]),
            **{name: int(row[name]) for name in _NUMBERS},
            **{name: row[name] or None for name in _WORDS},
            recompute=_recompute(row["recompute"]),
            sequence_parallel=str(row["sequence_parallel"]) == "True",
            overlap_dispatch=str(row["overlap_dispatch"]) == "True",
            lora=_lora(row["lora"]),
            document=int(row["document"]) if row["document"] else None,
        ),
        printed_engine=row["printed_engine"],
        gpu=row["gpu"],
        node=int(row["node"]),
        network=float(row["network"]),
        host=float(row["host"]),
        rate=float(row["tok_s_gpu"]),
        assumed=row["assumed"],
    )


def _recompute(said: str) -> str | tuple[str, ...]:
    """A word of `Run.recompute`, or names of modules."""
    names = said.split()
    return said if len(names) == 1 else tuple(names)


def _lora(said: str) -> Lora | None:
    """Adapters as the table writes them: a rank, settings, adapted layers unless all of them."""
    if not said:
        return None
    rank, *words = said.split()
    settings = dict(word.split("=") for word in words if "=" in word)
    if "dropout" in settings:
        settings["dropout"] = float(settings["dropout"])
    targets = [word for word in words if "=" not in word]
    return Lora(int(rank), targets or "all-linear", **settings)


@lru_cache(maxsize=256)
def _model(said: str, name: str) -> Model:
    return Model(json.loads(said), name=name) if said.startswith("{") else Model(said)


@lru_cache(maxsize=1024)
def compare(row: Row) -> Compared:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degrees that an engine of today would not choose
        cluster = {"network": row.network, "node": row.node, "host": row.host}
        return Compared(row, step_time(row.run, row.gpu, **cluster))


@lru_cache
def judged() -> tuple[Compared, ...]:
    """Every row but those of `CALIBRATION`."""
    return tuple(compare(row) for row in load() if not row.calibration)


def published(
    *,
    source: str = "",
    engine: str | None = None,
    gpu: str = "",
    name: str = "",
    kind: str = "",
) -> list[dict]:
    """Published rows as a tidy table: one dict a run, for plots and tables.

    Args:
        source, gpu, name: words that these must contain, whatever their case.
        engine: as in `Run.engine`.
        kind: "16 bits, dense", "fp8 matmuls", "adapters" or "mixtures of experts".

    Returns:
        Dicts with id, source, name, parameters, engine, gpu, gpus, kind, sequence, micro_batch,
        tokens (of a micro-batch), the degrees, zero, recompute, attention, precision,
        tokens_per_second (a GPU, as published), predicted (the same by `step_time`), mfu (published
        tokens times 6 FLOPs a matrix parameter and causal attention, over the dense 16-bit peak),
        error, calibration and assumed.
    """
    found = []
    for row in load():
        words = ((source, row.source), (gpu, row.gpu), (name, row.name), (kind, row.kind))
        if any(word.lower() not in text.lower() for word, text in words):
            continue
        if engine is None or row.run.engine == engine:
            found.append(_tidy(compare(row)))
    return found


def _tidy(compared: Compared) -> dict:
    row, run = compared.row, compared.row.run
    fields = ("sequence", "micro_batch", *_NUMBERS[3:], "recompute", "attention", "precision")
    plain = Run(run.model, sequence=run.sequence)
    work = flops(plain, attention="causal").model / plain.tokens
    return {
        "id": row.id,
        "source": row.source,
        "name": row.name,
        "parameters": run.model.parameters.total,
        "engine": run.engine,
        "gpu": row.gpu,
        "gpus": run.gpus,
        "kind": row.kind,
        "tokens": run.micro_batch * run.sequence,
        **{field: getattr(run, field) for field in fields},
        "tokens_per_second": row.rate,
        "predicted": compared.rate,
        "mfu": row.rate * work / find_gpu(row.gpu).peak_flops("bf16"),
        "error": compared.error,
        "calibration": row.calibration,
        "assumed": row.assumed,
    }


# --- Errors --------------------------------------------------------------------------------------


def size(errors: Iterable[float]) -> float:
    """Median error, whatever its sign."""
    return median(map(abs, errors))


def by(key: Callable[[Row], str], rows: Iterable[Compared]) -> dict[str, list[float]]:
    """{group: errors}, the group with the largest median error first."""
    groups: dict[str, list[float]] = {}
    for compared in rows:
        groups.setdefault(key(compared.row), []).append(compared.error)
    return dict(sorted(groups.items(), key=lambda item: -size(item[1])))


def summary() -> list[tuple[str, int, float, float]]:
    """(kind, runs, median error, share within 20 %) of each kind of run."""
    found = []
    for kind in KINDS:
        errors = [c.error for c in judged() if c.row.kind == kind]
        close = sum(abs(error) <= 0.2 for error in errors) / len(errors)
        found.append((kind, len(errors), size(errors), close))
    return found


def repeated() -> list[float]:
    """Largest over smallest published rate of each run that sources print more than once, as
    releases of an engine do: what no prediction from the run alone can tell apart."""
    rates: dict[tuple, list[float]] = {}
    for row in load():
        key = (row.run, row.gpu, row.node, row.network, row.host)
        rates.setdefault(key, []).append(row.rate)
    return [max(found) / min(found) for found in rates.values() if len(found) > 1]


def free_sources() -> list[tuple[str, float]]:
    """(group, its median error) of 16-bit dense rows from sources no row of which set a constant:
    what to expect of a source that nobody has seen."""
    used = {row.group for row in load() if row.calibration}
    dense = [c for c in judged() if c.row.kind == KINDS[0] and c.row.group not in used]
    return [(group, size(errors)) for group, errors in by(lambda row: row.group, dense).items()]


# --- How the table is made -----------------------------------------------------------------------


def record(collection: Path, path: Path = PATH) -> dict[str, int]:
    """Write data/published.csv from a collection of runs as printed: {"rows": [...]} in JSON.

    Returns:
        {reason: rows left out}.
    """
    reasons: dict[str, int] = {}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in json.loads(Path(collection).read_text(encoding="utf-8"))["rows"]:
            try:
                writer.writerow(printed.row_of(row))
            except printed.NotSayable as reason:
                reasons[str(reason)] = reasons.get(str(reason), 0) + 1
        writer.writerows(printed.MORE)
    return reasons
