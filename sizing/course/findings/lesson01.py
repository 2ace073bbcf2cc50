"""The questions under lesson 01's calculator."""

from ...architecture.model import Model, presets
from ...calculators.parameters import doubled
from ..finding import Finding


def _doubling(_calculator) -> str:
    model = Model("llama-3.1-8b")
    rows = sorted(doubled(model), key=lambda row: -row[1])
    (first, most), (second, next_) = rows[0], rows[1]
    n = model.parameters.total
    wide = model.replace(hidden_size=2 * model.hidden).parameters
    attention, mlp = (getattr(wide, p) / getattr(model.parameters, p) for p in ("attention", "mlp"))
    return (
        f"Of the rows 'twice the ...', {first} adds most: {most / n:.2f} times the total. Next is "
        f"{second}: {next_ / n:.2f}. It is not four times, because only matrices with the width on "
        f"both sides grow so: attention {attention:.0f} times, the MLP (its own width stays) "
        f"{mlp:.0f} times, the tables 2 times."
    )


def _gemma(calculator) -> str:
    p = Model("gemma-3-1b").parameters
    layers = p.attention + p.mlp + p.norm
    where = "in its layers" if layers > p.embedding else "in its table"
    return (
        f"More stands {where}: {layers / 1e6:.0f} M in the layers, {p.embedding / 1e6:.0f} M in "
        f"the table, which is {p.embedding / p.total:.0%} of the model."
    )


def active_shares() -> dict[str, float]:
    """The part of its parameters that a token meets, of each preset."""
    counts = {name: Model(name).parameters for name in presets()}
    return {name: count.active / count.total for name, count in counts.items()}


FEWEST, SHARE = min(active_shares().items(), key=lambda item: item[1])


def _fewest_active(_calculator) -> str:
    return f"{FEWEST}: a token meets {SHARE:.1%} of the parameters."


FINDINGS = {
    "01.parameters": (
        Finding(_doubling, {"model": "llama-3.1-8b"}),
        Finding(_gemma, {"model": "gemma-3-1b"}),
        Finding(_fewest_active, {"model": FEWEST}),
    ),
}
