"""`make workshop`: what an instructor takes along, written from the course as it is.

    python workshop/material.py build/workshop

writes what-learners-get-wrong.md (the mistakes that the labs' checks know, with a question to ask),
core-and-depth.md (what the cells' tags say of each lesson), answers.md (to the calculators'
questions, from the lessons' folds) and formulas.pdf (one page).
"""

import re
import sys
from html import unescape
from pathlib import Path

import nbformat

from sizing.course.minutes import minutes as course_minutes

ROOT = Path(__file__).resolve().parents[1]
_HINT = re.compile(r"<summary>Hint 1: a question back</summary>\s*(.*?)\s*</details>", re.S)
_CHECK = re.compile(r"\bcheck\(\"([\w.]+)\"")
_FOLD = re.compile(
    r"<details><summary>(?:(\d)\. )?What you should have found</summary>(.*?)</details>", re.S
)


def lesson_paths() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))


def heading(path: Path) -> str:
    """A notebook's title, without the #."""
    return _source(path, 0).splitlines()[0].lstrip("# ")


LEVELS = ("core", "depth", "appendix")


def level(cell) -> str:
    """What a cell is for: its tag, or core."""
    return next((tag for tag in cell.metadata.get("tags", ()) if tag in LEVELS), "core")


def minutes(path: Path) -> int:
    """A lesson's minutes, all of it: computed, not timed."""
    return course_minutes(path)[1]


def core_minutes(path: Path) -> int:
    """The core's."""
    return course_minutes(path)[0]


def sections(path: Path) -> dict[str, set[str]]:
    """{heading: the levels of the cells under it}, in the lesson's order."""
    found, here = {}, ""
    for cell in nbformat.read(path, as_version=4).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            here = line[3:] if line.startswith("## ") else here
        found.setdefault(here, set()).add(level(cell))
    return found


def core_and_depth() -> str:
    """What each lesson's core takes, and which sections can be left to those who are ahead."""
    lines = ["# Core and depth", ""]
    lines += ["Minutes are computed, not timed: `python -m sizing.course.minutes`.", ""]
    lines += [
        "| lesson | all | core | sections that are not core | partly |",
        "|---|---|---|---|---|",
    ]
    for path in lesson_paths():
        levels = sections(path)
        whole = [name for name, found in levels.items() if "core" not in found]
        part = [name for name, found in levels.items() if "core" in found and len(found) > 1]
        cells = [heading(path), str(minutes(path)), f"{core_minutes(path):.0f}"]
        lines.append(f"| {' | '.join([*cells, '; '.join(whole), '; '.join(part)])} |")
    return "\n".join([*lines, ""])


def _source(path: Path, place: int) -> str:
    return nbformat.read(path, as_version=4).cells[place].source


def lab_paths() -> list[Path]:
    return sorted((ROOT / "solutions").glob("*.ipynb"))


def questions(path: Path) -> dict[str, str]:
    """{exercise: what to ask back}, from the first hint under each check of a lab."""
    cells = nbformat.read(path, as_version=4).cells
    found, name = {}, None
    for cell in cells:
        if cell.cell_type == "code" and (checked := _CHECK.search(cell.source)):
            name = checked[1]
        elif name and (hint := _HINT.search(cell.source)):
            found[name] = " ".join(hint[1].split())
            name = None
    return found


def mistakes() -> str:
    """Every mistake that a check knows by name, lab by lab; the message is what learners read."""
    from sizing.course.checking import exercises

    lines = ["# What learners get wrong, and what to ask", ""]
    lines += [
        "From the checks of the labs: each of these answers is met with the sentence beside it."
    ]
    lines += [
        "Ask before you explain: the question of the exercise, then *what is your number a number"
    ]
    lines += ["of?*, its unit, what is in it and what is left out.", ""]
    known = exercises()
    for path in lab_paths():
        lines += [f"## {heading(path)}", ""]
        for name, asked in questions(path).items():
            exercise = known[name]
            lines += [f"**{name.partition('.')[2]}** ({exercise.precision}). Ask: {asked}", ""]
            lines += [f"- {_shown(exercise, wrong)}{why}" for wrong, why in exercise.mistakes]
            lines += [f"- Right: {exercise.because}"] if exercise.because else []
            lines.append("")
    return "\n".join(lines)


def _shown(exercise, wrong) -> str:
    """A wrong answer as a learner types it; functions and long values are left to the message."""
    if exercise.inputs:
        return ""
    text = _typed(wrong() if callable(wrong) else wrong)
    return f"`{text}`: " if len(text) <= 40 else ""


def _typed(value) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_typed, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def answers() -> str:
    """What the lessons' folds say one should have found with their calculators."""
    lines = ["# Answers to the calculators' questions", ""]
    for path in lesson_paths():
        cells = nbformat.read(path, as_version=4).cells
        asked = _asked(cells)
        found = [fold for cell in cells for text in _texts(cell) for fold in _FOLD.findall(text)]
        lines += [f"## {heading(path)}", ""]
        for question in asked:
            lines += ["\n".join(re.findall(r"^\d\. .*(?:\n   .*)*", question, re.M)), ""]
        lines += ["**Answers**", ""] if found else ["The lesson itself goes on to say.", ""]
        lines += [f"{place}. {unescape(fold.strip())}" if place else fold for place, fold in found]
        lines.append("")
    return "\n".join(lines)


def _asked(cells) -> list[str]:
    """The numbered lists that a calculator's folds answer: each the last one before its fold."""
    listed, found = "", []
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"^1\. ", cell.source, re.M):
            listed = cell.source
        elif listed and re.search(r"\bfound\(", cell.source):
            found.append(listed)
            listed = ""
    return found


def _texts(cell) -> list[str]:
    """Where a fold can stand: in what a cell says, and in what it showed."""
    shown = [out.data.get("text/html", "") for out in cell.get("outputs", []) if "data" in out]
    return [cell.source, *shown]


# The hand-out: name, formula, when it holds, lesson; the notation stands under its title.
FORMULAS = (
    (
        "Ridge of a device",
        r"$I = peak\ /\ bandwidth$",
        "FLOP per byte",
        "00",
    ),
    ("Parameters of a GPT", r"$N = 12 L h^2 + V h$", "biases and norms left out", "01"),
    (
        "of an expert layer, active",
        r"$N_{act} = N - L\,(E - k)\,N_{expert}$",
        "k of E chosen",
        "01",
    ),
    ("FLOPs of training", r"$C = 6 N D$", "s well below 6 h", "02"),
    ("and attention", r"$C = 6 N D\,(1 + s / 6h)$", "GPT; all s × s pairs", "02"),
    ("MFU", r"$6 N D\ /\ (t \cdot n \cdot peak)$", "dense peak; no recompute", "02"),
    ("Seconds", r"$t = C\ /\ (n \cdot peak \cdot MFU)$", "MFU of a run like yours", "02"),
    ("Compute-optimal", r"$D \approx 20\,N$", "Chinchilla; served little", "03"),
    ("Attention equals weights at", r"$s^* = 6 h$", "GPT", "04"),
    ("Model state, AdamW mixed", r"$16\,N$ bytes", "4 each: W, G, two M; fp32", "05"),
    ("Loss", r"$12\,b s V$ bytes", "at the start of backward", "05"),
    ("Peak", "largest phase of a step", "never a sum over phases", "05"),
    ("LoRA of rank r", r"$r\,(in + out)$ per matrix", "activations stay", "06"),
    ("Activations, full recompute", r"$2 b s h L$ bytes", "bf16, plus one layer", "07"),
    ("Batch of a step", r"$B = b \cdot a \cdot d$ sequences", "a times accumulated", "07"),
    ("Pipeline bubble", r"$(p - 1)\ /\ (m + p - 1)$", "m micro-batches, 1F1B", "09"),
    (
        "ZeRO 1, 2, 3 divide",
        r"$M$; $M{+}G$; $M{+}G{+}W$ by $d$",
        "moments, gradients, ...",
        "08",
    ),
    ("and send, per step", r"$2 N,\ 2 N,\ 3 N$ numbers", "each GPU, many ranks", "08"),
    ("Save every", r"$\sqrt{2\,t_{save}\,MTBF}$", "Young; saves that stop the run", "10"),
    ("QLoRA, frozen weights", r"$(1/2 + 4/64)\,N$ bytes", "4 bits, an fp32 scale per 64", "12"),
    ("Money", r"GPU-hours $\times$ price", "failures and restarts included", "11"),
)
NOTATION = (
    "h width, L layers, V words, E experts (k chosen), N parameters, D tokens, C FLOPs; s length, "
    "b sequences, m micro-batches,",
    "n GPUs, d ranks, p stages, t seconds; W, G, M bytes of weights, gradients, moments; "
    "in and out: a matrix's two sides",
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
        for line, text in enumerate(NOTATION):
            figure.text(0.07, 0.927 - 0.016 * line, text, size=8.5)
        for number, (name, formula, holds, lesson) in enumerate(
            sorted(FORMULAS, key=lambda row: row[3])
        ):
            y = 0.875 - number * 0.8 / (len(FORMULAS) - 1)
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
    (folder / "core-and-depth.md").write_text(core_and_depth(), encoding="utf-8")
    (folder / "answers.md").write_text(answers(), encoding="utf-8")
    handout(folder / "formulas.pdf")
    print(f"{folder}: what-learners-get-wrong.md, core-and-depth.md, answers.md, formulas.pdf")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/workshop"))
