"""Units and how figures are printed. Inside the library sizes are bytes and times seconds."""

import math
from numbers import Real
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"

GB = 10**9  # gigabyte, SI: what disks, networks and prices use
GIB = 2**30  # gibibyte: what operating systems, torch and nvidia-smi print
HOUR = 3600.0
DAY = 86400.0

# Of one number in memory; tf32 is fp32 there.
BYTES = {
    "fp32": 4,
    "tf32": 4,
    "fp16": 2,
    "bf16": 2,
    "fp8": 1,
    "int8": 1,
    "bool": 1,
    "int64": 8,
}

_PREFIXES = (
    (1e24, "Y"),
    (1e21, "Z"),
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
)


def positive(field: str, value: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{field}: {value!r} given; allowed: a finite number above 0")


def not_negative(field: str, value: float) -> None:
    """Refuse what is not a finite number from 0 on.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
        raise ValueError(f"{field}: {value!r} given; allowed: a finite number >= 0")


def gb(size: float) -> str:
    """Bytes as decimal gigabytes: ``gb(16e9)`` is ``'16.00 GB'``.

    What would round to nothing is shown in a smaller unit: ``gb(2048)`` is ``'2.05 kB'``.
    """
    return _sized(size, 1000, ("GB", "MB", "kB", "B"))


def gib(size: float) -> str:
    """Bytes as binary gibibytes: ``gib(2**30)`` is ``'1.00 GiB'``; small ones as in `gb`."""
    return _sized(size, 1024, ("GiB", "MiB", "KiB", "B"))


def _sized(size: float, base: int, names: tuple[str, ...]) -> str:
    """Two decimals in the first of the units, from the largest, in which they are not all 0."""
    power = len(names) - 1
    while power and size and round(abs(size) / base**power, 2) == 0:
        power -= 1
    return f"{size / base**power:,.2f} {names[len(names) - 1 - power]}"


def decimals(value: float, places: int) -> str:
    """A number with so many decimals; two significant digits where those would all be zeros."""
    text = f"{value:,.{places}f}"
    return text if not value or text.strip("-0.,") else f"{value:.2g}"


def si(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: ``si(3.15e23, 'FLOP')`` is ``'315 ZFLOP'``."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{_three(value / factor)} {prefix}{unit}".rstrip()
    return f"{_three(value)} {unit}".rstrip()


def count(value: float) -> str:
    """Parameters or tokens as people write them: ``count(124439808)`` is ``'124.4 M'``."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {suffix}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would choose: ``duration(5400)`` is ``'1.50 h'``."""
    if seconds >= 2 * DAY:
        return f"{_three(seconds / DAY)} days"
    for limit, factor, unit in (
        (HOUR, HOUR, "h"),
        (120, 60, "min"),
        (1, 1, "s"),
        (1e-3, 1e-3, "ms"),
    ):
        if seconds >= limit:
            return f"{_three(seconds / factor)} {unit}"
    return f"{_three(seconds / 1e-6)} µs"


def _three(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return (
        f"{value:.3g}"
        if value == 0 or abs(value) < 1
        else f"{value:.{2 if abs(value) < 10 else 1}f}"
    )
