"""`make workshop`: what an instructor takes along, written from the course as it is.

    python workshop/material.py build/workshop

writes what-learners-get-wrong.md (the mistakes that the labs' checks know, with a question to ask),
answers.md (to the calculators' questions, from the lessons' folds) and formulas.pdf (one page).
"""

import re
import sys
from html import unescape
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LABS = {"case_a": "case-a-batch", "case_b": "case-b-gpus", "case_c": "case-c-laptop"}
_FOLD = re.compile(
    r"<details><summary>(?:(\d)\. )?What you should have found</summary>(.*?)</details>", re.S
)


def lesson_paths() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))


def heading(path: Path) -> str:
    """A notebook's title, without the #."""
    first = nbformat.read(path, as_version=4).cells[0].source
    return first.splitlines()[0].lstrip("# ")


def mistakes() -> str:
    """Every mistake that a check knows by name, lab by lab; the message is what learners read."""
    from sizing.course.checking import exercises

    lines = ["# What learners get wrong, and what to ask", ""]
    lines += [
        "From the checks of the labs: each of these answers is met with the sentence beside it."
    ]
    lines += [
        "Ask before you explain: *what is your number a number of?*, then the unit, then what is"
    ]
    lines += ["in it and what is left out.", ""]
    lab = None
    for name, exercise in exercises().items():
        module, _, short = name.partition(".")
        if module != lab:
            lab = module
            lines += [f"## {LABS.get(lab, lab.replace('lab', 'Lab '))}", ""]
        if not exercise.mistakes:
            continue
        lines += [f"**{short}** ({exercise.precision})", ""]
        lines += [f"- {_shown(wrong)}{why}" for wrong, why in exercise.mistakes]
        lines += [f"- Right: {exercise.because}"] if exercise.because else []
        lines.append("")
    return "\n".join(lines)


def _shown(wrong) -> str:
    """A wrong answer as a learner types it; functions and long values are left to the message."""
    if isinstance(wrong, bool | int | str):
        return f"`{wrong}`: "
    return f"`{wrong:.4g}`: " if isinstance(wrong, float) else ""


def answers() -> str:
    """What the lessons' folds say one should have found with their calculators."""
    lines = ["# Answers to the calculators' questions", ""]
    for path in lesson_paths():
        cells = nbformat.read(path, as_version=4).cells
        sources = [cell.source for cell in cells]
        asked = [s for s in sources if re.search(r"^1\. ", s, re.M) and "calculator" in s.lower()]
        found = [fold for cell in cells for text in _texts(cell) for fold in _FOLD.findall(text)]
        lines += [f"## {heading(path)}", ""]
        for question in asked:
            lines += ["\n".join(re.findall(r"^\d\. .*(?:\n   .*)*", question, re.M)), ""]
        lines += ["**Answers**", ""] if found else ["The lesson itself goes on to say.", ""]
        lines += [f"{place}. {unescape(fold.strip())}" if place else fold for place, fold in found]
        lines.append("")
    return "\n".join(lines)


def _texts(cell) -> list[str]:
    """Where a fold can stand: in what a cell says, and in what it showed."""
    shown = [out.data.get("text/html", "") for out in cell.get("outputs", []) if "data" in out]
    return [cell.source, *shown]


# The hand-out: name, formula, when it holds, lesson. One notation: h width, L layers, V words,
# s length, b sequences, N parameters, D tokens, d ranks, p = 1 / rate.
FORMULAS = (
    ("Parameters of a GPT", r"$N = 12 L h^2 + V h$", "biases and norms left out", "01"),
    (
        "of an expert layer, active",
        r"$N_{act} = N - L\,(E - k)\,N_{expert}$",
        "k of E chosen",
        "01",
    ),
    ("FLOPs of training", r"$C = 6 N D$", "s well below 6 h", "02"),
    ("and attention", r"$C = 6 N D\,(1 + \frac{s}{6h})$", "GPT; all s × s pairs", "02"),
    ("MFU", r"$\frac{6 N D}{t \cdot n \cdot peak}$", "dense peak; no recompute", "02"),
    ("Days", r"$t = \frac{C}{n \cdot peak \cdot MFU}$", "MFU of a run like yours", "02"),
    ("Compute-optimal", r"$D \approx 20\,N$", "Chinchilla; served little", "03"),
    ("Attention equals weights at", r"$s^* = 6 h$", "GPT", "04"),
    ("Model state, AdamW mixed", r"$16\,N$ bytes", "4 each: W, G, two M; fp32", "05"),
    ("Loss", r"$12\,b s V$ bytes", "at the start of backward", "05"),
    ("Activations, full recompute", r"$2 b s h L$ bytes", "bf16, plus one layer", "07"),
    ("Peak", r"$\max_{phase}$", "never a sum over phases", "05"),
    ("LoRA of rank r", r"$r\,(in + out)$ per matrix", "activations stay", "06"),
    ("Pipeline bubble", r"$\frac{p - 1}{m + p - 1}$", "m micro-batches, 1F1B", "09"),
    (
        "ZeRO 1, 2, 3 divide",
        r"$M$; $M{+}G$; $M{+}G{+}W$ by $d$",
        "moments, gradients, ...",
        "08",
    ),
    ("and send, per step", r"$2 N,\ 2 N,\ 3 N$ numbers", "each GPU, many ranks", "08"),
    ("Save every", r"$\sqrt{2\,t_{save}\,MTBF}$", "Young; saves that stop the run", "10"),
    ("Money", r"GPU-hours $\times$ price", "failures and restarts included", "11"),
)
UNITS = (
    "GB = 10⁹ bytes, GiB = 2³⁰ bytes: 80 GB are 74.5 GiB.  bf16 2 bytes, fp32 4.  1 day = 86,400 s."
)


def handout(path: Path) -> None:
    """One A4 page of formulas as a PDF; the same bytes each time."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "pdf.fonttype": 42}):
        figure = Figure(figsize=(8.27, 11.69))
        figure.text(0.07, 0.95, "Sizing a training run: formulas", size=17, weight="bold")
        figure.text(
            0.07,
            0.925,
            "h width, L layers, V words, s length, b sequences, N parameters, D tokens, "
            "n GPUs, d ranks, p stages",
            size=8.5,
        )
        for number, (name, formula, holds, lesson) in enumerate(FORMULAS):
            y = 0.885 - number * 0.0455
            figure.text(0.07, y, name, size=10.5)
            figure.text(0.36, y, formula, size=12)
            figure.text(0.66, y, holds, size=8.5, color="0.25")
            figure.text(0.93, y, lesson, size=8.5, color="0.25", ha="right")
        figure.text(0.07, 0.045, UNITS, size=8.5)
        figure.text(
            0.07, 0.028, "Last column: the lesson that derives it, and says where it fails.", size=8
        )
        figure.savefig(path, format="pdf", metadata={"CreationDate": None})


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "what-learners-get-wrong.md").write_text(mistakes(), encoding="utf-8")
    (folder / "answers.md").write_text(answers(), encoding="utf-8")
    handout(folder / "formulas.pdf")
    print(f"{folder}: what-learners-get-wrong.md, answers.md, formulas.pdf")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/workshop"))
