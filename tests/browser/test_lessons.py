"""Every lesson in a real browser: no cell error, every control moved, keyboard, axe-core, themes.

`make test` opens lesson 01; `make browser-test` opens all, `make browser-test LESSONS="05 11"` some
(SIZING_BROWSER, numbers or `all`).
"""

import os

import pytest
from audit import axe_source, controls, cut_off, label, move, reached, theme, violations
from lab import ROOT, browser_page, jupyter_lab, open_notebook, run_all
from test_lab import need_chromium, shoot

from sizing.course.copies import bring_all

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ASKED = os.environ.get("SIZING_BROWSER", "01").split()
ALL = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))
CHOSEN = [name for name in ALL if "all" in ASKED or name[:2] in ASKED]
WIDTHS = (1024, 1280, 1920)
SECONDS = 900  # for all cells of a lesson; only a lesson that hangs takes as long


def need_axe() -> None:
    """Skip without axe-core; but fail where CI is set."""
    if axe_source() is None:
        reason = "axe-playwright-python is not installed (requirements.txt)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A JupyterLab over a learner's copies: what is opened in the lessons' stead."""
    need_chromium()
    need_axe()
    folder = tmp_path_factory.mktemp("course") / "work"
    bring_all(work=folder)
    with jupyter_lab(folder, env={"SIZING_RECORDED": "1"}) as address:
        yield address


@pytest.fixture(scope="module", params=CHOSEN)
def lesson(request, address):
    """The page of a lesson whose cells have all run without an error."""
    with browser_page(width=1280, height=1000) as page:
        page.set_default_timeout(60_000)
        open_notebook(page, address, f"notebooks/{request.param}")
        run_all(page, SECONDS)
        yield request.param, page
        page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")


def test_the_audit_finds_what_it_is_there_for():
    """On a page with a fault of each kind; what is JupyterLab's is not ours to mend."""
    need_chromium()
    need_axe()
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    html = f"""<html lang='en'><title>x</title><body><img src='{pixel}'>
        <div class='jp-MarkdownOutput'><img src='{pixel}'><p style='color:#bbb'>Too pale.</p>
        <h1>x<a class='jp-InternalAnchorLink' href='#x' style='color:#eee'>mark</a></h1>
        <div style='width:300px'><table style='width:2000px'><tr><td>wide</td></tr></table></div>
        </div><div class='jp-OutputArea-output'><input></div></body></html>"""
    with browser_page() as page:
        page.set_content(html)
        found = violations(page)
        rules = sorted(line.split()[0] for line in found)
        assert rules == ["color-contrast", "image-alt", "label"], "\n".join(found)
        assert [line.split()[0] for line in cut_off(page)] == ["TD"]


def boxes(page):
    return page.locator(".sizing:has(.sizing-controls)").all()


def test_axe_core_finds_nothing_in_the_light_theme(lesson):
    _, page = lesson
    theme(page, dark=False)
    assert not (found := violations(page)), "\n".join(found)


def test_axe_core_finds_nothing_in_the_dark_theme(lesson):
    name, page = lesson
    theme(page, dark=True)
    try:
        found = violations(page)
        for number, box in enumerate(boxes(page)):
            shoot(box, f"{name[:2]}-dark-{number}")
    finally:
        theme(page, dark=False)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off(lesson, width):
    _, page = lesson
    page.set_viewport_size({"width": width, "height": 1000})
    page.wait_for_timeout(300)
    try:
        assert not (cut := cut_off(page)), "\n".join(cut)
    finally:
        page.set_viewport_size({"width": 1280, "height": 1000})


def test_tab_reaches_every_control_and_leaves(lesson):
    _, page = lesson
    for box in boxes(page):
        names = {label(one) for one in controls(box)}
        seen, left = reached(page, box)
        assert names <= seen and left


def test_a_guess_is_committed_with_the_keyboard_alone(lesson):
    _, page = lesson
    fields = page.get_by_placeholder("such as 0.5, 250 or 2.5e3").all()
    assert fields or lesson[0][:2] == "00"
    for field in fields:
        field.focus()
        page.keyboard.type("3")
        page.keyboard.press("Enter")
        outer = field.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
        outer.get_by_text("Committed: 3").wait_for()


def test_every_control_moves_by_keyboard(lesson):
    """Last: it leaves the calculators elsewhere. Each move is answered in words."""
    _, page = lesson
    wrong = []
    for box in boxes(page):
        for number in range(len(controls(box))):
            shown = controls(box)  # a move may hide another control
            if number < len(shown):
                wrong.append(move(page, box, shown[number]))
    assert [words for words in wrong if words] == []
    assert not (found := violations(page)), "\n".join(found)
