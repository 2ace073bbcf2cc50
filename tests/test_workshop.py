"""The instructor's material: schedules that work by the clock, tables that are complete."""

import importlib.util
import re
import sys
from dataclasses import replace
from itertools import pairwise
from math import sqrt
from pathlib import Path

import nbformat
import pytest
from hygiene import problems

import sizing
from sizing.course import drawings
from sizing.course.checking import exercises

ROOT = Path(__file__).resolve().parents[1]
WORKSHOP = ROOT / "workshop"
GUIDE = (WORKSHOP / "README.md").read_text(encoding="utf-8")
PLANS = ("Half a day", "One day", "Two days")
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))


def module(name):
    spec = importlib.util.spec_from_file_location(name, WORKSHOP / f"{name}.py")
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def material():
    return module("material")


@pytest.fixture(scope="module")
def slides():
    return module("slides")


# -- schedules


def rows(plan: str) -> list[tuple[int, int, str, str, str]]:
    """A schedule's rows: from and to in minutes, what, where, and what to skip first."""
    section = GUIDE[GUIDE.index(f"## {plan}") :].split("\n## ")[0]
    pattern = r"^\| (\d\d):(\d\d) \| (\d\d):(\d\d) \| ([^|]*)\|([^|]*)\|([^|]*)\|"
    found = re.findall(pattern, section, re.M)
    return [
        (60 * int(h) + int(m), 60 * int(hh) + int(mm), *(text.strip() for text in rest))
        for h, m, hh, mm, *rest in found
    ]


def days(plan: str) -> list[list[tuple[int, int, str]]]:
    """The rows of a schedule, a list for each day."""
    found: list[list[tuple[int, int, str]]] = []
    for begin, end, what, *_ in rows(plan):
        if not found or begin < found[-1][-1][1]:
            found.append([])
        found[-1].append((begin, end, what))
    return found


@pytest.mark.parametrize("plan", PLANS)
def test_a_schedule_works_by_the_clock(plan):
    found = days(plan)
    assert len(found) == (2 if plan == "Two days" else 1)
    for day in found:
        assert all(begin < end for begin, end, _ in day)
        ends = pairwise(day)
        assert all(before[1] == after[0] for before, after in ends)  # no gap, no overlap
        pauses = [row for row in day if row[2] in ("Break", "Lunch")]
        assert all(end - begin >= 15 for begin, end, _ in pauses)
        edges = [day[0][0], *(t for begin, end, _ in pauses for t in (begin, end)), day[-1][1]]
        stretches = [edges[n + 1] - edges[n] for n in range(0, len(edges), 2)]
        assert max(stretches) <= 90, (plan, stretches)
        assert any("Buffer" in what for _, _, what in day)


@pytest.mark.parametrize("plan", PLANS)
def test_a_schedule_leaves_time_for_the_core_of_its_lessons(plan, material):
    taken: dict[str, int] = {}
    for begin, end, _, where, skipped in rows(plan):
        if not (link := re.search(r"\.\./(notebooks/[^)]*)", where)):
            continue
        taken[link[1]] = taken.get(link[1], 0) + end - begin
        levels = material.sections(ROOT / link[1])
        named = [found for name, found in levels.items() if name.startswith(skipped)]
        assert not skipped or (len(named) == 1 and "core" in named[0]), skipped
    short = {
        name: time for name, time in taken.items() if time < material.core_minutes(ROOT / name)
    }
    assert short == {}
    assert len(taken) == (13 if plan == "Two days" else 5 if plan == "One day" else 3)


def test_what_is_not_core_is_listed(material):
    text = material.core_and_depth()
    assert all(material.heading(path) in text for path in LESSONS)
    assert "MFU against HFU" in text and "Problems on published runs" in text
    for path in LESSONS:
        assert 0.3 * material.minutes(path) < material.core_minutes(path) <= material.minutes(path)


def test_every_link_of_the_guide_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", GUIDE)
    assert len(links) > 30
    assert [link for link in links if not (WORKSHOP / link).exists()] == []


# -- tables


def test_every_known_mistake_is_listed(material):
    text = material.mistakes()
    known = [why for exercise in exercises().values() for _, why in exercise.mistakes]
    assert len(known) > 400 and all(why in text for why in known)
    assert text.count(". Ask: ") == len(exercises())  # a question for each


def test_answers_follow_their_questions(material):
    text = material.answers()
    for path in LESSONS:
        assert f"## {material.heading(path)}" in text
    folds = sum("What you should have found</summary>" in path.read_text() for path in LESSONS)
    assert text.count("**Answers**") == folds >= 5
    for part in text.split("\n## ")[1:]:  # no answers without their questions
        questions, _, answered = part.partition("**Answers**")
        assert re.search(r"^1\. ", questions, re.M) or not answered, part[:60]
    assert "1. `llama-3.1-8b` on 64 GPUs" in text and "2. Between 200 and 500 GB/s" in text


def test_the_hand_out_is_one_page_and_the_same_each_time(material, tmp_path):
    for name in ("one.pdf", "two.pdf"):
        material.handout(tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.pdf", "two.pdf"))
    assert one == two and one[:5] == b"%PDF-"
    assert len(re.findall(rb"/Type /Page\b", one)) == 1


def test_formulas_of_the_hand_out_are_those_of_the_library():
    """Each beside `sizing`, within what its own condition allows."""
    near = pytest.approx
    gpt = sizing.Model("gpt3-175b")
    h, layers, vocab, s = gpt.hidden, gpt.layers, gpt.vocab, 2048
    assert gpt.parameters.total == near(12 * layers * h**2 + vocab * h, rel=1e-3)
    run = sizing.Run(gpt, sequence=s)
    flops = sizing.flops(run).model
    assert flops == near(6 * gpt.parameters.total * s * (1 + s / (6 * h)), rel=0.01)
    mixtral = sizing.Model("mixtral-8x7b")
    expert = 3 * mixtral.hidden * 14336
    counted = mixtral.parameters.total - mixtral.layers * 6 * expert
    assert mixtral.parameters.active == near(counted, rel=1e-3)
    best = sizing.optimal(compute=1e23)
    assert 10 < best.tokens / best.parameters < 30
    state = sizing.memory(sizing.Run("llama-3.1-8b", sequence=1, recompute="full"))
    held = state.phases["optimizer"]
    whole = held["parameters"] + held["gradients"] + held["optimizer"]
    assert whole == near(16 * sizing.Model("llama-3.1-8b").parameters.total, rel=1e-3)
    assert sqrt(2 * 60 * 86400) == near(3220, rel=1e-3)  # a minute's save, a failure a day


# -- the broken notebook


def printed() -> list[str]:
    notebook = nbformat.read(WORKSHOP / "broken-on-purpose.ipynb", as_version=4)
    assert problems(notebook) == []
    return [out.text for c in notebook.cells if c.cell_type == "code" for out in c.outputs]


def truths() -> list[str]:
    h100 = sizing.hardware.gpu("h100-sxm")
    peak = h100.peak["bf16"]
    mixtral, llama = sizing.Model("mixtral-8x7b"), sizing.Model("llama-3.1-8b")
    days_taken = 6 * mixtral.parameters.active * 1e12 / (512 * peak * 0.40) / 86400
    two = sizing.Run(llama, sequence=2048, precision="bf16-master", data=2, zero=3)
    held = sizing.memory(two)
    gemma = sizing.memory(sizing.Run("gemma-3-270m", sequence=256, micro_batch=16))
    mfu = 6 * llama.parameters.total * 4 * 2**20 / 11.5 / 64 / peak
    tuned = sizing.Run("llama-3.2-1b", sequence=2048, micro_batch=4, precision="bf16")
    gpt = sizing.Run("gpt2", sequence=1024, micro_batch=8, data=8, zero=3)
    return [
        f"{days_taken:.1f} days",
        f"{held.total / 1e9:.1f} GB: {held.on('h100-sxm').verdict}",
        f"{gemma.total / 1e9:.1f} GB",
        f"{100 * mfu:.0f} %",
        f"{sizing.memory(replace(tuned, lora=16)).total / 1e9:.1f} GB",
        f"{sizing.memory(gpt).total / 1e9:.1f} GB",
    ]


def test_every_fault_is_there_and_its_diagnosis_is_right():
    outputs, right = printed(), truths()
    rows = re.findall(r"^\| (\d) \| ([^|]*)\| ([^|]*)\| ([^|]*)\|", GUIDE, re.M)
    assert len(rows) == len(outputs) == len(right) == 6
    for (_, _, wrong, diagnosed), output, truth in zip(rows, outputs, right, strict=True):
        assert wrong.strip().replace(" %", "%") in output
        assert diagnosed.strip() == truth
        assert truth not in output


# -- slides


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_slides_carry_questions_figures_and_sections(slides, path):
    notebook = nbformat.read(path, as_version=4)
    found = slides.slides(notebook)
    text = "".join(found)
    assert found[0].lstrip().startswith("<h1")
    asked = sum(len(re.findall(r"\bpredict\(", c.source)) > 0 for c in notebook.cells)
    assert text.count("class='ask'") == asked
    figures = sum(
        "image/png" in out.get("data", {}) for c in notebook.cells for out in c.get("outputs", [])
    )
    assert text.count("data:image/png;base64,") == figures
    assert "<details>" not in text and "anchor-link" not in text  # no answers


def test_a_drawing_is_a_slide_per_step(slides):
    path = next(path for path in LESSONS if path.stem.startswith("09"))
    found = slides.slides(nbformat.read(path, as_version=4))
    for drawing in (drawings.context(), drawings.experts("mixtral-8x7b")):
        shown = [one for one in found if drawing.title in one]
        assert len(shown) == len(drawing.steps)
        assert all(step.svg in one for step, one in zip(drawing.steps, shown, strict=True))


@pytest.mark.skipif(
    importlib.util.find_spec("sphinx_revealjs") is None,
    reason="pip install --no-deps -r workshop/requirements-slides.txt",
)
def test_a_file_of_slides_needs_no_network(slides):
    page = slides.page(nbformat.read(LESSONS[1], as_version=4))
    outside = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=['\"]?(https?:[^'\" >]+)", page)
    assert outside == [] and "@import" not in page
    assert "Reveal.initialize" in page and "MathJax" in page
