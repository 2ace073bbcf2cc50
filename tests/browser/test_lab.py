"""JupyterLab in headless Chromium: a person at the keyboard, from `make lab` to an exact count."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from lab import (
    NOTEBOOK,
    ROOT,
    browser_page,
    control,
    find_chromium,
    jupyter_lab,
    open_notebook,
    run_all,
    wait_for_kernel,
)

import sizing

pytestmark = pytest.mark.browser
SHOTS = ROOT / "build" / "browser"
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def need_chromium() -> None:
    """Skip without Chromium; but fail where CI is set, which is there to run this."""
    if find_chromium() is None:
        reason = "no chromium on the PATH (Debian: apt install chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def page():
    need_chromium()
    with browser_page(height=1400) as page:
        page.set_default_timeout(30_000)
        yield page


@pytest.fixture(scope="module")
def lab(tmp_path_factory, page):
    """The address of a JupyterLab over a folder with copies of notebooks; lesson 01 among them."""
    folder = tmp_path_factory.mktemp("notebooks")
    cells = [
        nbformat.v4.new_code_cell(f"from sizing.calculators import {name}\n{name}()")
        for name in ("ParameterCalculator", "ComputeCalculator", "DeviceCard")
    ]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, folder / "calculators.ipynb")
    shutil.copy(next(ROOT.glob("notebooks/01-*.ipynb")), folder / "lesson.ipynb")
    with jupyter_lab(folder, env={"SIZING_RECORDED": "1"}) as address:
        yield address


@pytest.fixture(scope="module")
def calculators(page, lab):
    open_notebook(page, lab, "calculators.ipynb")
    run_all(page)
    return page


def calculator(page, title: str):
    return page.locator(".sizing", has=page.locator(f".sizing-title:text-is('{title}')"))


def picture(box) -> str:
    """A digest of the picture as the browser holds it."""
    data = box.locator("img").evaluate("async e => [...await (await fetch(e.src)).bytes()]")
    return hashlib.sha256(bytes(data)).hexdigest()


def shoot(box, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    box.screenshot(path=SHOTS / f"{name}.png")


def wait_for_text(box, text: str) -> None:
    box.get_by_text(text).first.wait_for()


def cells(page) -> list[dict]:
    return page.evaluate(f"{NOTEBOOK}.content.model.toJSON().cells")


def paste(page, field, text: str) -> None:
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    field.click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Control+V")


@pytest.mark.parametrize(
    ("title", "label", "key", "before", "after", "ratio"),
    [
        ("Compute and time", "how many", "ArrowRight", "23.5 days", "11.8 days", "(0.5 ×)"),
        ("Compute and time", "MFU", "ArrowLeft", "11.8 days", "12.1 days", "(1.03 ×)"),
        ("Device card", "FLOP per byte", "ArrowRight", "214 TFLOP/s", "303 TFLOP/s", "(1.41 ×)"),
    ],
)
def test_slider_by_keyboard(calculators, title, label, key, before, after, ratio):
    page, box = calculators, calculator(calculators, title)
    assert before in box.locator(".sizing-headline").inner_text()
    drawn = picture(box)
    control(page, label).focus()
    page.keyboard.press(key)
    changed = box.locator(".sizing-changed", has_text=f"→ {after}")  # the last to be written
    changed.wait_for()
    words = changed.inner_text()
    assert words.startswith(f"Changed: {label} ") and before in words and ratio in words
    assert after in box.locator(".sizing-headline").inner_text()
    assert picture(box) != drawn
    # what a screen reader hears: the slider's name and value, the picture's caption
    row = box.locator(".widget-slider", has=page.get_by_text(label, exact=True))
    readout = row.locator(".widget-readout").inner_text()
    assert box.get_by_role("slider", name=label).get_attribute("aria-valuetext") == readout
    assert box.locator("img").get_attribute("title") == box.locator("p i").inner_text()
    shoot(box, f"slider-{label.replace(' ', '-')}")


def test_a_value_is_typed_beside_its_slider(calculators):
    """It needs no step of the slider; a wrong one is answered and stays to be mended."""
    page, box = calculators, calculator(calculators, "Compute and time")
    entry = box.get_by_placeholder("type").and_(page.get_by_title("how many: type a value"))
    entry.fill("100")
    entry.press("Enter")
    box.locator(".sizing-changed", has_text="→ 100").wait_for()
    row = box.locator(".widget-slider", has=page.get_by_text("how many", exact=True))
    assert row.locator(".widget-readout").inner_text() == "100"
    assert row.locator(".noUi-base").bounding_box()["width"] > 80  # the field leaves it room
    assert entry.input_value() == ""
    entry.fill("-4")
    entry.press("Enter")
    box.get_by_role("alert").wait_for()
    assert "count: -4 given; allowed: a whole number >= 1" in box.get_by_role("alert").inner_text()
    assert entry.input_value() == "-4"
    shoot(box, "typed")
    entry.fill("64")
    entry.press("Enter")
    box.locator(".sizing-changed", has_text="→ 64").wait_for()


def test_keys_in_a_drop_down_stay_there(calculators):
    page, box = calculators, calculator(calculators, "Parameters")
    before = cells(page)
    choice = control(page, "model")
    choice.select_option("gpt2")
    wait_for_text(box, "124,439,808 parameters")
    choice.focus()
    page.keyboard.press("ArrowDown")
    wait_for_text(box, "774,030,080 parameters")  # gpt2-large
    page.keyboard.type("mix")  # JupyterLab's m, i, x would make a cell markdown and cut it
    wait_for_text(box, f"{sizing.Model('mixtral-8x22b').parameters.total:,} parameters")
    assert choice.evaluate("e => e === document.activeElement")
    assert [(c["cell_type"], c["source"]) for c in cells(page)] == [
        (c["cell_type"], c["source"]) for c in before
    ]


def test_a_pasted_config_gives_the_exact_count(calculators):
    page, box = calculators, calculator(calculators, "Parameters")
    config = json.loads((ROOT / "data/models/qwen3-8b.json").read_text())
    text = json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, indent=2)
    field, drawn = control(page, "or config.json"), picture(box)
    paste(page, field, text)
    wait_for_text(box, "8,190,735,360 parameters")
    assert box.locator(".sizing-headline").inner_text() == "8,190,735,360 parameters"
    good = picture(box)
    assert good != drawn
    shoot(box, "pasted-config")

    paste(page, field, text.replace('"hidden_size": 4096', '"hidden_size": "wide"'))
    wait_for_text(box, "hidden_size: 'wide' given")
    assert box.get_by_role("alert").is_visible() and picture(box) == good
    shoot(box, "impossible-config")

    field.fill("")
    wait_for_text(box, "Changed: or config.json pasted → empty")


@pytest.mark.parametrize("width", [1280, 900])
def test_nothing_is_cut_off(calculators, width):
    page = calculators
    page.set_viewport_size({"width": width, "height": 1400})
    box = calculator(page, "Compute and time")
    for label, key in (("sequence", "End"), ("train on", "End"), ("how many", "End")):
        control(page, label).focus()
        page.keyboard.press(key)
    wait_for_text(box, "131,072 tokens")
    wait_for_text(box, "30 T tokens")
    cut = page.evaluate(
        """() => [...document.querySelectorAll('.sizing :is(.widget-label, .widget-readout, '
            + '.widget-html-content, .sizing-headline, table, img)')]
            .filter(e => e.scrollWidth > e.clientWidth + 1 ||
                e.getBoundingClientRect().right > innerWidth)
            .map(e => e.textContent || e.tagName)"""
    )
    assert cut == []
    shoot(box, f"width-{width}")


def test_a_lesson_runs_and_its_calculator_moves(page, lab):
    open_notebook(page, lab, "lesson.ipynb")
    run_all(page)
    box = calculator(page, "Parameters").first
    assert box.locator(".sizing-headline").inner_text() == "8,030,261,248 parameters"
    drawn = picture(box)
    control(page, "model").focus()
    page.keyboard.press("ArrowDown")
    expected = sizing.Model("llama-3.2-1b").parameters.total
    wait_for_text(box, f"{expected:,} parameters")
    assert picture(box) != drawn
    shoot(box, "lesson")


def test_a_saved_copy_shows_its_calculators_the_next_day(page, tmp_path):
    """Stopped, and opened again without running a cell: as it was left, and said to be."""
    source = "from sizing.calculators import ParameterCalculator\nParameterCalculator()"
    cells = [nbformat.v4.new_code_cell(source)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, tmp_path / "day.ipynb")
    with jupyter_lab(tmp_path) as address:
        open_notebook(page, address, "day.ipynb")
        run_all(page)
        control(page, "model").select_option("gpt2")
        wait_for_text(calculator(page, "Parameters"), "124,439,808 parameters")
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_function(f"!{NOTEBOOK}.context.model.dirty")
    with jupyter_lab(tmp_path) as address:
        open_notebook(page, address, "day.ipynb")
        box = calculator(page, "Parameters")
        wait_for_text(box, "124,439,808 parameters")
        assert page.get_by_text("model not found").count() == 0
        said = box.evaluate("e => getComputedStyle(e, '::before').content")
        assert "Run its cell" in said
        inner = box.locator("select").first.locator("..")
        assert inner.evaluate("e => getComputedStyle(e, '::before').display") == "none"
        shoot(box, "next-day")


def test_the_core_is_shown_alone(page, tmp_path):
    """The list above a notebook hides cells by their tags, and is not there without tags."""
    tagged = [
        nbformat.v4.new_markdown_cell(f"This is {tag}.", metadata={"tags": [tag] if tag else []})
        for tag in ("", "core", "depth", "appendix", "depth")
    ]
    for name, some in (("tagged", tagged), ("plain", tagged[:2])):
        notebook = nbformat.v4.new_notebook(cells=some, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")

    def shown():
        texts = page.locator(".jp-MarkdownOutput:visible").all_inner_texts()
        return [text.removeprefix("This is ").strip(" .\n") for text in texts]

    with jupyter_lab(tmp_path) as address:
        open_notebook(page, address, "tagged.ipynb")
        choice = page.get_by_label("Cells to show")
        choice.wait_for()
        everything = ["", "core", "depth", "appendix", "depth"]
        assert shown() == everything
        for level, left in (
            ("core", everything[:2]),
            ("core and depth", [*everything[:3], "depth"]),
            ("all cells", everything),
        ):
            choice.select_option(level)
            page.wait_for_timeout(300)
            assert shown() == left
        assert [c["source"] for c in cells(page)] == [c.source for c in tagged]
        open_notebook(page, address, "plain.ipynb")
        page.wait_for_timeout(1500)
        assert page.get_by_label("Cells to show").filter(visible=True).count() == 0


def test_make_lab_opens_lesson_00_with_its_kernel_and_no_prompt(page):
    """The real command, in this folder: it opens a working copy, and writes no file of git's."""
    venv = ROOT / ".venv"
    if subprocess.run(["make", "-q", ".venv/.ready"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this environment was not set up by make")
    lesson = ROOT / "notebooks" / "00-start-here.ipynb"
    before = lesson.read_bytes()
    with jupyter_lab(ROOT, command=("make", "lab")) as address:
        page.goto(address)
        wait_for_kernel(page)
        page.wait_for_timeout(3000)  # prompts come late
        opened = "work/notebooks/00-start-here.ipynb"
        assert page.evaluate(f"{NOTEBOOK}.context.path") == opened
        assert page.locator(".jp-Dialog").count() == 0  # which kernel? read the news?
        assert page.locator(".Toastify__toast").count() == 0  # an update is available
        prefix = page.evaluate(
            f"""async () => {{
                const kernel = {NOTEBOOK}.context.sessionContext.session.kernel;
                const future = kernel.requestExecute({{code: 'import sys; print(sys.prefix)'}});
                let text = '';
                future.onIOPub = message => {{ text += message.content.text ?? ''; }};
                await future.done;
                return text.trim();
            }}"""
        )
        assert Path(prefix).resolve() == venv.resolve()
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / "make-lab.png")
    assert lesson.read_bytes() == before


def test_without_a_browser_it_is_skipped_but_fails_in_ci(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        need_chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no chromium"):
        need_chromium()
