"""What every calculator shares: controls, a result in words, numbers and a picture.

A calculator is a thin view. Its subclass says which controls there are, computes a `Result` from
their values with pure functions of the core, and moves a few artists of one kept Agg figure. Axes
and labels are drawn once and kept as a background, so that a slider's new picture takes some
milliseconds. Nothing is printed and no output is captured, so that nbval, GitHub and a screen
reader see the same text.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..units import gb
from .style import RC

DPI = 100
_WIDE = {"description_width": "118px"}


@dataclass(frozen=True)
class Limit:
    """How much of a device's memory is asked for, in bytes."""

    what: str
    used: float
    available: float
    device: str


@dataclass(frozen=True)
class Result:
    """What a calculator says about one setting of its controls.

    Attributes:
        value, headline: the number in its base unit, and as it is shown, with its unit.
        formula: the formula with today's numbers in it.
        columns, rows: a table.
        caption: what to see in the picture; its text alternative.
        accuracy: how far the formula is from the truth, and over which table.
        limit: the device's memory against what is asked for.
        notes: what else to know.
        data: what the picture needs.
    """

    value: float
    headline: str
    formula: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    accuracy: str = ""
    limit: Limit | None = None
    notes: tuple[str, ...] = ()
    data: Any = field(default=None, compare=False, repr=False)


class Calculator(widgets.VBox):
    """Base of all calculators.

    A subclass sets `title` and gives `make_controls`, `result`, `prepare` (makes the figure and
    returns the artists that will move) and `update` (moves them). Settings may be given as keyword
    arguments, later through `set`, or by moving the controls.

    Raises:
        ValueError: an unknown setting, or a value that its control does not have.
    """

    title = ""
    size = (7.2, 3.4)  # inches

    def __init__(self, **settings):
        self.controls: dict[str, widgets.ValueWidget] = self.make_controls()
        self._headline = widgets.HTML()
        self._changed = widgets.HTML()
        self._details = widgets.HTML()
        self._picture = widgets.Image(format="png", layout={"max_width": "100%"})
        self._last: tuple[dict, Result] | None = None
        self.error = ""
        with matplotlib.rc_context(RC | {"figure.autolayout": False}):
            self._figure = Figure(figsize=self.size, dpi=DPI, layout="constrained")
            self._canvas = FigureCanvasAgg(self._figure)
            self._moving = self.prepare(self._figure)
            for artist in self._moving:
                artist.set_animated(True)  # left out of the background
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self._figure.bbox)
        self._choose(settings)
        self.refresh()
        for control in self.controls.values():
            control.observe(self._moved, "value")
        left = widgets.VBox(list(self.controls.values()), layout={"width": "46%"})
        right = widgets.VBox(
            [self._headline, self._changed], layout={"width": "54%", "padding": "0 0 0 14px"}
        )
        super().__init__(
            [
                widgets.HTML(f"<b style='font-size:1.15em'>{escape(self.title)}</b>"),
                widgets.HBox([left, right]),
                self._picture,
                self._details,
            ],
            layout={"max_width": "860px"},
        )

    # --- what a subclass gives -----------------------------------------------------------

    def make_controls(self) -> dict[str, widgets.ValueWidget]:
        raise NotImplementedError

    def result(self, **settings) -> Result:
        raise NotImplementedError

    def prepare(self, figure: Figure) -> list[Artist]:
        raise NotImplementedError

    def update(self, result: Result) -> None:
        raise NotImplementedError

    # --- settings ------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """The controls' values."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def current(self) -> Result:
        """The last result that could be computed."""
        return self._last[1]

    def set(self, **settings) -> Calculator:
        """Move several controls at once, as ``calculator.set(model="gpt2", sequence=1024)``."""
        for control in self.controls.values():
            control.unobserve(self._moved, "value")
        try:
            self._choose(settings)
        finally:
            for control in self.controls.values():
                control.observe(self._moved, "value")
        self.refresh()
        return self

    def _choose(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if name not in self.controls:
                raise ValueError(f"{name}: no such setting; allowed: {', '.join(self.controls)}")
            _check_choice(name, value, self.controls[name])
        for name, value in settings.items():
            self.controls[name].value = value

    # --- the view ------------------------------------------------------------------------

    def _moved(self, _change) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Compute and show. Settings that cannot be computed say why and leave the picture."""
        settings = self.settings
        try:
            result = self.result(**settings)
        except ValueError as error:
            self.error = str(error)
            self._headline.value = (
                f"<div role='alert' style='color:var(--jp-error-color1,#b00020)'>"
                f"<b>Not possible.</b> {escape(self.error)}</div>"
            )
            self._changed.value = "The picture shows the last setting that was."
            return
        self.error = ""
        self._headline.value = self._headline_html(result)
        self._changed.value = escape(self._what_changed(settings, result))
        self._details.value = self._details_html(result)
        self.update(result)
        self._picture.value = self._png()
        self._last = (settings, result)

    def _png(self) -> bytes:
        self._canvas.restore_region(self._background)
        for artist in self._moving:
            self._figure.draw_artist(artist)
        width, height = self._canvas.get_width_height()
        pixels = self._canvas.buffer_rgba()
        image = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "png", compress_level=1)
        return sink.getvalue()

    def _headline_html(self, result: Result) -> str:
        bar = _limit_html(result.limit) if result.limit else ""
        notes = "".join(f"<div>{escape(note)}</div>" for note in result.notes)
        return (
            f"<div style='font-size:1.6em;line-height:1.3'><b>{escape(result.headline)}</b></div>"
            f"{bar}<div style='line-height:1.4'>{notes}</div>"
        )

    def _what_changed(self, settings: dict, result: Result) -> str:
        if self._last is None:
            return "Move a control: what changed is said here."
        before, previous = self._last
        moved = [name for name in settings if settings[name] != before[name]]
        if not moved:
            return self._changed_text
        steps = ", ".join(
            f"{name} {self._shown(name, before[name])} → {self._shown(name, settings[name])}"
            for name in moved
        )
        ratio = f" ({result.value / previous.value:.3g} ×)" if previous.value else ""
        self._changed_text = f"Changed: {steps}: {previous.headline} → {result.headline}{ratio}"
        return self._changed_text

    _changed_text = ""

    def _shown(self, name: str, value: Any) -> str:
        """A control's value in the words of its control."""
        control = self.controls[name]
        if isinstance(control, widgets.SelectionSlider | widgets.Dropdown):
            for label, option in control._options_full:
                if option == value:
                    return str(label)
        if isinstance(control, widgets.Textarea):
            return "empty" if not str(value).strip() else "pasted"
        return str(value)

    def _details_html(self, result: Result) -> str:
        accuracy = f"<p>How far off: {escape(result.accuracy)}</p>" if result.accuracy else ""
        return (
            f"<p style='margin:0 0 6px'><i>{escape(result.caption)}</i></p>"
            f"<p style='margin:0'><code>{escape(result.formula)}</code></p>"
            f"{_table_html(result)}{accuracy}"
        )

    def _repr_mimebundle_(self, **kwargs) -> dict[str, Any]:
        """The live widget, and beside it what GitHub, a screen reader or a test can read."""
        shown = {name: self._shown(name, value) for name, value in self.settings.items()}
        inputs = "".join(
            f"<li>{escape(self.controls[name].description)} {escape(text)}</li>"
            for name, text in shown.items()
        )
        html = (
            f"<div><b>{escape(self.title)}</b><ul>{inputs}</ul>"
            f"{self._headline.value}<p>{self._changed.value}</p>{self._details.value}</div>"
        )
        lines = [self.title, "; ".join(f"{name} = {text}" for name, text in shown.items())]
        if self.error:
            lines.append(f"not possible: {self.error}")
        else:
            lines += [self.current.headline, self.current.formula]
            if self.current.limit:
                lines.append(limit_words(self.current.limit))
        return super()._repr_mimebundle_(**kwargs) | {
            "text/plain": "\n".join(lines),
            "text/html": html,
        }


# --- controls ----------------------------------------------------------------------------


def dropdown(label: str, options, value=None) -> widgets.Dropdown:
    """A drop-down; options are values, or (shown, value) pairs."""
    chosen = {} if value is None else {"value": value}
    return widgets.Dropdown(
        options=options, description=label, style=_WIDE, layout={"width": "98%"}, **chosen
    )


def scale(label: str, values, value, shown) -> widgets.SelectionSlider:
    """A slider over given values that shows each as a person reads it (`shown` of the value)."""
    return widgets.SelectionSlider(
        options=[(shown(v), v) for v in values],
        value=value,
        description=label,
        style=_WIDE,
        layout={"width": "98%"},
        continuous_update=True,
    )


def percent(label: str, value: float, least: float, most: float) -> widgets.SelectionSlider:
    """A slider of whole percents whose value is the fraction."""
    steps = [p / 100 for p in range(round(100 * least), round(100 * most) + 1)]
    return scale(label, steps, value, lambda v: f"{v:.0%}")


def powers_of_two(least: int, most: int) -> list[int]:
    return [2**k for k in range(least.bit_length() - 1, most.bit_length())]


def decades(least: float, most: float, steps=(1, 1.5, 2, 3, 5, 7)) -> list[float]:
    """Round values, six a decade, from `least` to `most`."""
    values, factor = [], least
    while factor <= most:
        values += [step * factor for step in steps if step * factor <= most]
        factor *= 10
    return values


def _check_choice(name: str, value: Any, control: widgets.ValueWidget) -> None:
    options = getattr(control, "_options_full", None)
    if options is None:
        return
    allowed = [option for _, option in options]
    if value not in allowed:
        few = allowed if len(allowed) <= 12 else [*allowed[:5], "...", *allowed[-3:]]
        raise ValueError(f"{name}: {value!r} given; allowed: {', '.join(map(str, few))}")


# --- pieces of HTML ----------------------------------------------------------------------


def limit_words(limit: Limit) -> str:
    """Whether it fits, in words: ``'fits: weights take 16.06 GB of 85.52 GB (19 %) ...'``."""
    share = limit.used / limit.available
    verdict = "fits" if share <= 1 else "does not fit"
    return (
        f"{verdict}: {limit.what} take {gb(limit.used)} of {gb(limit.available)} "
        f"({share:.0%}) on {limit.device}"
    )


def _limit_html(limit: Limit) -> str:
    share = limit.used / limit.available
    colour = "#009E73" if share <= 1 else "#D55E00"
    return (
        "<div style='border:1px solid #888;height:12px;width:100%;max-width:340px' role='img' "
        f"aria-label='{escape(limit_words(limit))}'>"
        f"<div style='background:{colour};height:100%;width:{min(share, 1):.1%}'></div></div>"
        f"<div>{escape(limit_words(limit))}</div>"
    )


def _table_html(result: Result) -> str:
    if not result.rows:
        return ""
    cell = "style='text-align:right;padding:2px 10px'"
    first = "style='text-align:left;padding:2px 10px;white-space:nowrap'"
    head = "".join(
        f"<th {cell if i else first}>{escape(name)}</th>" for i, name in enumerate(result.columns)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td {cell if i else first}>{escape(v)}</td>" for i, v in enumerate(row))
        + "</tr>"
        for row in result.rows
    )
    return f"<table style='width:auto'><tr>{head}</tr>{body}</table>"
