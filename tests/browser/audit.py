"""What is held of a notebook that is open in JupyterLab: axe-core, the keyboard, widths.

Only the course's own content is judged: rendered markdown and what cells put out. JupyterLab's
toolbars, prompts and editors are not ours to mend.
"""

from importlib.util import find_spec
from pathlib import Path

from playwright.sync_api import Locator, Page

# WCAG 2.2 at levels A and AA, and axe-core's own advice; contrast is one of the former.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OURS = (".jp-MarkdownOutput", ".jp-OutputArea-output")
# JupyterLab's: the mark behind a heading, and the heading levels that a page of cells has.
THEIRS = [".jp-InternalAnchorLink", ".jp-Placeholder"]
NOT_OF_A_CELL = {
    "region": "landmarks of the whole page are JupyterLab's",
    "page-has-heading-one": "a notebook's heading stands in a cell",
    "heading-order": "a page of cells: each cell's headings follow the one before it",
}
THEMES = {False: "JupyterLab Light", True: "JupyterLab Dark"}


def axe_source() -> Path | None:
    """axe-core as its package ships it; None where it is not installed (requirements.txt)."""
    spec = find_spec("axe_playwright_python")
    return Path(spec.origin).with_name("axe.min.js") if spec and spec.origin else None


def violations(page: Page, ours: tuple[str, ...] = OURS) -> list[str]:
    """What axe-core finds in our content, one line for each element: rule, impact, its HTML."""
    page.wait_for_timeout(500)  # the course's extension names what is new in the page
    if not page.evaluate("() => 'axe' in window"):
        source = axe_source()
        if source is None:
            raise RuntimeError("axe-core is missing: pip install -r requirements.txt")
        # Pages of JupyterLab hold an AMD loader, which axe would register itself with.
        page.evaluate("() => { window._define = window.define; window.define = undefined; }")
        page.add_script_tag(content=source.read_text(encoding="utf-8"))
        page.evaluate("() => { window.define = window._define; }")
    found = page.evaluate(
        """async ([include, exclude, tags, off]) => {
            const present = include.filter(s => document.querySelector(s));
            const result = await axe.run(
                {include: present.map(s => [s]), exclude: exclude.map(s => [s])},
                {runOnly: tags, resultTypes: ['violations'],
                 rules: Object.fromEntries(off.map(rule => [rule, {enabled: false}]))});
            return result.violations.flatMap(v =>
                v.nodes.map(n => [v.id, v.impact, n.html, n.failureSummary]));
        }""",
        [list(ours), THEIRS, RULES, list(NOT_OF_A_CELL)],
    )
    return [
        f"{rule} ({impact}): {html[:160]} | {' '.join(why.split())[:200]}"
        for rule, impact, html, why in found
    ]


def theme(page: Page, dark: bool) -> None:
    """Change JupyterLab's theme, and wait until it is shown."""
    name = THEMES[dark]
    page.evaluate(
        "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", name
    )
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
    page.wait_for_timeout(300)


def cut_off(page: Page) -> list[str]:
    """Texts and pictures of ours that do not fit where they stand, or leave the window.

    What scrolls inside its own box (a wide table, a long line) is not cut off.
    """
    return page.evaluate(
        """() => [...document.querySelectorAll('.sizing :is(.widget-label, .widget-readout, '
            + '.widget-html-content, .sizing-headline, table, img), '
            + '.jp-MarkdownOutput :is(p, li, td, th, img, h1, h2, h3), .jp-RenderedImage img')]
            .filter(e => e.offsetParent && !e.closest('.sizing-listing, pre'))
            .filter(e => {
                const right = e.getBoundingClientRect().right;
                // a formula has a copy for screen readers, which is wide and not to be seen
                const formulas = [...e.querySelectorAll('mjx-math')];
                const wide = formulas.length
                    ? formulas.some(f => f.getBoundingClientRect().right > right + 1)
                    : e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
                        && getComputedStyle(e).display !== 'inline';
                return wide || right > innerWidth;
            })
            .map(e => `${e.tagName} ${(e.textContent || e.src || '').slice(0, 60)}`)"""
    )


def controls(box: Locator) -> list[Locator]:
    """What a learner can move in a calculator: drop-downs and sliders that are shown."""
    found = box.locator(".sizing-controls :is(select, .noUi-handle)")
    return [one for one in found.all() if one.is_visible()]


def label(one: Locator) -> str:
    """The words beside a control."""
    return one.evaluate(
        "e => e.closest('.widget-inline-hbox').querySelector('.widget-label').textContent"
    )


def state(one: Locator) -> str:
    """What a control is set to, as it is said to a screen reader."""
    return one.evaluate(
        "e => e.tagName === 'SELECT' ? e.value : "
        "e.closest('.widget-slider').querySelector('.widget-readout').textContent"
    )


def move(page: Page, box: Locator, one: Locator) -> str:
    """Move a control by one step with the keyboard alone, and wait for what the calculator says.

    Returns what is wrong, or nothing. A setting that is not possible is answered in words, and then
    taken back.
    """
    name, before = label(one), state(one)
    slider = one.evaluate("e => e.classList.contains('noUi-handle')")
    forth, back = ("ArrowRight", "ArrowLeft") if slider else ("ArrowDown", "ArrowUp")
    one.focus()
    page.keyboard.press(forth)
    page.wait_for_timeout(30)
    if state(one) == before:
        forth, back = back, forth
        page.keyboard.press(forth)
    try:
        page.wait_for_function(
            """([box, name]) => {
                const said = box.querySelector('.sizing-changed')?.textContent ?? '';
                return said.startsWith('Changed:') && said.includes(`${name} `)
                    || box.querySelector('[role=alert]');
            }""",
            arg=[box.element_handle(), name],
            timeout=20_000,
        )
    except Exception:
        return f"{name}: moved from {before} to {state(one)}, and nothing is said"
    if box.locator("[role=alert]").count():
        page.keyboard.press(back)
        box.locator("[role=alert]").wait_for(state="detached", timeout=20_000)
    return ""


def reached(page: Page, box: Locator, most: int = 120) -> tuple[set[str], bool]:
    """Labels of the controls that Tab reaches from the calculator's first, and whether it leaves
    the calculator afterwards."""
    first = controls(box)[0]
    first.focus()
    seen = {label(first)}
    for _ in range(most):
        page.keyboard.press("Tab")
        inside, words = box.evaluate(
            """box => {
                const at = document.activeElement;
                const row = at.closest('.widget-inline-hbox');
                return [box.contains(at), row?.querySelector('.widget-label')?.textContent ?? ''];
            }"""
        )
        if not inside:
            return seen, True
        seen.add(words)
    return seen, False
