"""Which architectures have a formula, which are traced, which are refused: the README's table.

`python -m sizing.trace.coverage` prints it.
"""

from __future__ import annotations

from ..architecture.families import FAMILIES
from ..architecture.fields import known
from ..architecture.wrappers import SAME_WEIGHTS
from .fallback import DATA_DEPENDENT, SCANS, TOKEN_LOOPS


def rows() -> list[tuple[str, str, str]]:
    """(what you get, how many types, which)."""
    causal = set(known()["causal"])
    formula = sorted({*FAMILIES, *SAME_WEIGHTS})
    only_parameters = sorted(causal & set(DATA_DEPENDENT))
    slow = sorted((causal - set(FAMILIES)) & set(TOKEN_LOOPS))
    scans = sorted((causal - set(FAMILIES)) & (set(SCANS) - set(TOKEN_LOOPS)))
    traced = causal - set(formula) - set(only_parameters) - set(slow) - set(scans)
    wrappers = [
        name
        for name, rule in sorted(known()["wrappers"].items())
        if rule["text"] in FAMILIES or rule["text"] in SAME_WEIGHTS
    ]
    return [
        ("formula: all of `sizing`", str(len(formula)), _listed(formula)),
        ("formula for the text model inside", str(len(wrappers)), _listed(wrappers)),
        (
            "traced: `sizing.trace.model`",
            str(len(traced)),
            "the others of transformers' `AutoModelForCausalLM`",
        ),
        (
            "traced, without the fused kernels that people train with",
            str(len(scans)),
            _listed(scans),
        ),
        (
            "traced, minutes at a training length (a loop over tokens)",
            str(len(slow)),
            _listed(slow),
        ),
        (
            "parameters alone (no step of text without values)",
            str(len(only_parameters)),
            _listed(only_parameters),
        ),
        (
            "refused, in words",
            "",
            "encoders, code that comes with the model (`auto_map`), draft heads, files of weights",
        ),
    ]


def _listed(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table() -> str:
    """The rows as Markdown."""
    head = "| what you get | types | `model_type` |\n|---|---|---|\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows())


if __name__ == "__main__":
    print(table(), end="")
