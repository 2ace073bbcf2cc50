"""Pieces of HTML that calculators show: whether it fits, tables, and the style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ..units import gb
from .style import GREEN, RED, YELLOW

# What ipywidgets cannot do, done when the style sheet is loaded. A key without Ctrl or Enter stays
# in the calculator: JupyterLab would take those in a drop-down for shortcuts on the cell (arrows
# leave it, "m" and "x" change it). For a screen reader a slider's handle gets its label as its name
# and its readout as its value, and the field beside it the name that its title has; a table's empty
# corner heads nothing and becomes a plain cell: at once, and again when they may have changed.
_SCRIPT = """
const root = this.closest('.sizing');
root.addEventListener('keydown', event => {
  if (!event.ctrlKey && !event.metaKey && event.key !== 'Enter') event.stopPropagation();
});
const name = target => {
  if (target.matches('input[title]')) target.ariaLabel = target.title;
  if (target.role !== 'slider') return;
  const text = part => target.closest('.widget-slider')?.querySelector(part)?.textContent ?? '';
  target.ariaLabel = text('.widget-label');
  target.ariaValueText = text('.widget-readout');
};
const all = () => {
  root.querySelectorAll('[role=slider], input[title]').forEach(name);
  root.querySelectorAll('th:empty').forEach(
    corner => corner.replaceWith(document.createElement('td')));
};
root.addEventListener('focusin', event => name(event.target));
root.addEventListener('keyup', event => name(event.target));
new MutationObserver(all).observe(root, {childList: true, subtree: true});
all();
"""

# JupyterLab gives every line of an HTML widget a control's height, cuts a slider's readout at the
# width of a few digits, and draws a drop-down's arrow black on its dark theme. What was saved and
# opened again, or lost its kernel, says so in one sentence, not with a red sign at every control.
_STYLE = """
.sizing { max-width: 880px; }
.sizing .widget-html, .sizing .widget-html-content { line-height: 1.45; height: auto;
    min-width: 0; }
.sizing .widget-html-content p { margin: 0 0 8px; }
.sizing-title { font-size: 1.15em; font-weight: bold; }
.sizing-panes { flex-flow: row wrap; gap: 6px 20px; overflow: visible; }
.sizing-controls { flex: 10 1 340px; overflow: visible; }
.sizing.sizing-wide { display: grid; grid-template-columns: minmax(260px, 2fr) 5fr;
    max-width: 1180px; gap: 6px 20px; align-items: start; }
.sizing-wide > * { grid-column: 1 / -1; min-width: 0; }
.sizing-wide .sizing-panes { display: contents; }
.sizing-wide .sizing-controls { grid-column: 1 / -1; display: block; columns: 340px;
    column-gap: 16px; }
.sizing-wide .sizing-controls .widget-label { width: 100px !important; }
.sizing-wide .sizing-controls .widget-readout { width: 98px; margin-left: 8px; }
.sizing-wide .sizing-controls .widget-text { width: 54px !important; }
.sizing-group { break-inside: avoid; overflow: visible; }
.sizing-fold { text-align: left; font-weight: bold; background: none; padding: 0; }
.sizing-fold:focus { outline: 2px solid var(--jp-brand-color1, #1976d2) !important; }
.sizing-wide .sizing-result { grid-column: 1; }
.sizing-wide > img { grid-column: 2; }
.sizing-result { flex: 6 1 340px; }
.sizing-result { flex: 11 1 340px; min-height: 136px; overflow: visible; }
.sizing .widget-readout { flex: none; width: 104px; max-width: none; margin-left: 10px;
    text-align: left; }
.sizing .noUi-handle:focus, .sizing select:focus, .sizing textarea:focus {
    outline: 2px solid var(--jp-brand-color1, #1976d2) !important; outline-offset: 1px; }
[data-jp-theme-light=false] .sizing select { color-scheme: dark; background-image: none;
    appearance: auto; }
.sizing-headline { font-size: 1.4em; font-weight: bold; line-height: 1.25; margin-bottom: 4px; }
.sizing-listing { background: var(--jp-layout-color2, #f4f4f4); padding: 6px 10px; margin: 0 0 10px;
    max-height: 300px; overflow: auto; user-select: text; font-family: monospace; }
.sizing table { border-collapse: collapse; margin: 0 0 10px; }
.sizing th, .sizing td { padding: 2px 24px 2px 0; text-align: right; white-space: nowrap; }
.sizing-wide th, .sizing-wide td { padding-right: 14px; }
.sizing th:first-child, .sizing td:first-child { text-align: left; }
.sizing .jupyter-widgets-disconnected::before { display: none; }
.sizing.jupyter-widgets-disconnected::before { display: block; float: none; height: auto;
    padding: 0 0 6px; font: italic 13px/1.4 sans-serif; color: var(--jp-ui-font-color1, #222);
    content: "As it was left: not connected. Run its cell to move it again."; }
.sizing th { border-bottom: 1px solid var(--jp-border-color1, #888); white-space: normal;
    vertical-align: bottom; }
"""


@dataclass(frozen=True)
class Limit:
    """How much of a device's memory is asked for, in bytes; `judged`, by `Memory.on`, where what
    lies beside the tensors is known: "fits", "tight" or "does not fit"."""

    what: str
    used: float
    available: float
    device: str
    judged: str = ""

    @property
    def verdict(self) -> str:
        return self.judged or ("fits" if self.used <= self.available else "does not fit")

    @property
    def fits(self) -> bool:
        return self.verdict != "does not fit"

    @property
    def words(self) -> str:
        """Such as ``'fits: the weights alone take 16.06 GB of the 85.52 GB (19%) of ...'``."""
        return (
            f"{self.verdict}: {self.what} take {gb(self.used)} of the "
            f"{gb(self.available)} ({self.used / self.available:.0%}) of {self.device}"
        )


def title(text: str) -> str:
    """The calculator's title, with its style sheet."""
    return (
        f'<style onload="{escape(_SCRIPT)}">{_STYLE}</style>'
        f"<div class='sizing-title'>{escape(text)}</div>"
    )


def bar(limit: Limit) -> str:
    """The share of the device's memory as a bar, and in words."""
    colours = {"fits": GREEN, "tight": YELLOW, "does not fit": RED}
    colour, share = colours[limit.verdict], min(limit.used / limit.available, 1)
    verdict, rest = escape(limit.words).split(":", 1)
    return (
        "<div style='border:1px solid #888;height:12px;max-width:340px'>"
        f"<div style='background:{colour};height:100%;width:{share:.1%}'></div></div>"
        f"<div><b>{verdict.capitalize()}</b>:{rest}.</div>"
    )


def table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def paragraph(text: str, label: str = "") -> str:
    """The text in a paragraph after its label; nothing where there is no text."""
    return f"<p>{escape(label)}{escape(text)}</p>" if text else ""


def listing(text: str) -> str:
    """The text as it is, to copy: no line is broken."""
    return f"<pre class='sizing-listing'>{escape(text)}</pre>" if text else ""
