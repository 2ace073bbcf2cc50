"""What every calculator shares: controls, a result in words, numbers and a picture.

A calculator is a thin view. Its subclass says which controls there are, computes a `Result` from
their values with pure functions of the core, and moves a few artists of one kept Agg figure. Axes
and labels are drawn once and kept as a background, so that a slider's new picture takes some
milliseconds. Nothing is printed and no output is captured, so that nbval, GitHub and a screen
reader see the same text.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from numbers import Integral, Real
from typing import Any, ClassVar

import ipywidgets as widgets
import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from traitlets import Unicode

from .html import Limit, bar, listing, paragraph, table, title
from .style import RC

DPI = 100
_KEPT = "The picture and the table still show the last setting that was possible."
# The layout is constrained instead; text without hinting is drawn twice as fast.
_RC = RC | {"figure.autolayout": False, "text.hinting": "no_hinting"}
_LABEL = {"description_width": "118px"}
_WIDE = {"width": "auto"}


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
        notes: what else to know, beside the headline.
        source: where the figures were seen, below the table.
        listing: what to copy as it is, such as a script.
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
    source: str = ""
    listing: str = ""
    data: Any = field(default=None, compare=False, repr=False)


class Picture(widgets.Image):
    """A PNG whose `tooltip` is its name for a screen reader.

    The view of `Image` sets the tooltip as the title only where the model says that it has no
    description, and fails where, as in `Image`, the model does not say.
    """

    description = Unicode("").tag(sync=True)


class Calculator(widgets.VBox):
    """Base of all calculators.

    A subclass sets `title` and gives `make_controls`, `result`, `prepare` (makes the figure and
    returns the artists that will move) and `update` (moves them, and calls `redraw` if it changed
    anything else, such as an axis). Settings may be given as keyword arguments, later through
    `set`, or by moving the controls.

    A slider has steps, and beside it a field to type any value that the setting can have (`340`,
    `1.4e12`, `1.4T`): the value becomes a step of its own, between its neighbours.

    Raises:
        ValueError: an unknown setting, or a value that it cannot have.
    """

    title = ""
    size = (8.8, 3.4)  # inches
    wide = False  # many controls: in two columns, the result beside them
    groups: ClassVar[dict[str, tuple[str, ...]]] = {}  # headings over the controls, if any
    folded: ClassVar[tuple[str, ...]] = ()  # groups that a button opens

    def __init__(self, **settings):
        self.controls: dict[str, widgets.ValueWidget] = self.make_controls()
        self._headline, self._changed, self._details = (widgets.HTML() for _ in range(3))
        self._picture = Picture(format="png", layout={"max_width": "100%"})
        self._changed_text = "Move a control: what changed is said here."
        self._last: tuple[dict, Result] | None = None
        self.boxes: dict[str, widgets.Widget] = {}
        self.folds: dict[str, widgets.Widget] = {}
        self.error = ""
        with matplotlib.rc_context(_RC):
            self._figure = Figure(figsize=self.size, dpi=DPI, layout="constrained")
            self._canvas = FigureCanvasAgg(self._figure)
            self._moving = self.prepare(self._figure)
            for artist in self._moving:
                artist.set_animated(True)  # left out of the background
        self.redraw()
        self._choose(settings)
        self.refresh()
        for control in self.controls.values():
            control.observe(self._moved, "value")
        head = widgets.HTML(title(self.title))
        self.entries = {
            name: self._entry(name, control)
            for name, control in self.controls.items()
            if isinstance(control, Scale)
        }
        left = widgets.VBox(list(self._grouped()))
        self._hide()
        right = widgets.VBox([self._headline, self._changed])
        panes = widgets.HBox([left, right])
        super().__init__([head, panes, self._picture, self._details])
        self.add_class("sizing")
        if self.wide:
            self.add_class("sizing-wide")
        panes.add_class("sizing-panes")
        left.add_class("sizing-controls")
        right.add_class("sizing-result")
        self._changed.add_class("sizing-changed")

    def _grouped(self):
        """The controls, each with its entry, under the headings of `groups`."""
        for name, control in self.controls.items():
            entry = self.entries.get(name)
            self.boxes[name] = widgets.HBox([control, entry]) if entry else control
        if not self.groups:
            yield from self.boxes.values()
        for heading, names in self.groups.items():
            boxes = [self.boxes[name] for name in names if name in self.boxes]
            if heading in self.folded:
                self.folds[heading] = _fold(heading, boxes)
                yield self.folds[heading]
            elif boxes:
                group = widgets.VBox([widgets.HTML(f"<b>{escape(heading)}</b>"), *boxes])
                group.add_class("sizing-group")
                yield group

    # --- what a subclass gives -----------------------------------------------------------

    def make_controls(self) -> dict[str, widgets.ValueWidget]:
        raise NotImplementedError

    def result(self, **settings) -> Result:
        raise NotImplementedError

    def finish(self, result: Result) -> Result:
        """The result with what takes longer than its picture, such as a table of other settings."""
        return result

    def without_effect(self, **settings) -> set[str]:
        """Names of controls that change nothing beside these settings, and are hidden."""
        return set()

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
        """The last result that could be computed.

        Raises:
            ValueError: there is none yet; the message says why.
        """
        if self._last is None:
            raise ValueError(self.error)
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
            _check(name, value, self.controls[name])
        for name, value in settings.items():
            if isinstance(self.controls[name], Scale):
                self.controls[name].choose(value)
            else:
                self.controls[name].value = value

    def _entry(self, name: str, control: Scale) -> widgets.Text:
        """A field beside a slider; what is typed there is shown by the slider, and the field empty
        again."""
        entry = widgets.Text(
            placeholder="type",
            continuous_update=False,
            tooltip=f"{control.description}: type a value",
            layout={"width": "64px", "flex": "0 0 auto"},
        )

        def typed(change) -> None:
            if not change["new"].strip():
                return
            try:
                self.set(**{name: read_number(name, change["new"])})
            except ValueError as error:
                self._refuse(str(error))
            else:
                entry.value = ""

        entry.observe(typed, "value")
        return entry

    # --- the view ------------------------------------------------------------------------

    def _moved(self, _change) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Compute and show. Settings that cannot be computed say why and leave the picture."""
        settings = self.settings
        self._hide()
        try:
            result = self.result(**settings)
        except ValueError as error:
            self._refuse(str(error))
            return
        self.error = ""
        self.update(result)
        with self._picture.hold_sync():  # one message: the view loads the picture at each
            self._picture.value = self._png()
            self._picture.tooltip = result.caption
        result = self.finish(result)  # the picture is on its way already
        self._headline.value = _headline_html(result)
        self._changed.value = escape(self._what_changed(settings, result))
        self._details.value = _details_html(result)
        self._last = (settings, result)

    def _hide(self) -> None:
        """Show the controls that have an effect."""
        idle = self.without_effect(**self.settings)
        shown = {name: (box, name in idle) for name, box in self.boxes.items()}
        for heading, fold in self.folds.items():
            shown[heading] = (fold, set(self.groups[heading]) & set(self.boxes) <= idle)
        for box, away in shown.values():
            hidden = "none" if away else None
            if box.layout.display != hidden:
                box.layout.display = hidden

    def _refuse(self, why: str) -> None:
        """Say why there is no new result."""
        self.error = why
        self._headline.value = (
            f"<div role='alert' style='color:var(--jp-error-color1,#b00020)'>"
            f"<b>Not possible.</b> {escape(why)}</div>"
        )
        self._changed.value = _KEPT if self._last else ""

    def redraw(self) -> None:
        """Draw again what does not move."""
        with matplotlib.rc_context(_RC):
            self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def _png(self) -> bytes:
        self._canvas.restore_region(self._background)
        with matplotlib.rc_context(_RC):
            for artist in self._moving:
                self._figure.draw_artist(artist)
        width, height = self._canvas.get_width_height()
        pixels = self._canvas.buffer_rgba()
        image = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)
        sink = io.BytesIO()
        image.convert("RGB").save(sink, "png", compress_level=1)
        return sink.getvalue()

    def _what_changed(self, settings: dict, result: Result) -> str:
        if self._last is None:
            return self._changed_text
        before, previous = self._last
        moved = [name for name in settings if settings[name] != before[name]]
        if not moved:
            return self._changed_text
        steps = ", ".join(
            f"{self.controls[name].description} {self._shown(name, before[name])} → "
            f"{self._shown(name, settings[name])}"
            for name in moved
        )
        ratio = f" ({result.value / previous.value:.3g} ×)" if previous.value else ""
        self._changed_text = f"Changed: {steps}: {previous.headline} → {result.headline}{ratio}"
        return self._changed_text

    def _shown(self, name: str, value: Any) -> str:
        """A control's value in the words of its control."""
        control = self.controls[name]
        if isinstance(control, widgets.Textarea):
            return "pasted" if value.strip() else "empty"
        if isinstance(control, Scale):
            return control.shown(value)
        return next(label for label, option in control.options if option == value)

    def _repr_mimebundle_(self, **kwargs) -> dict[str, Any]:
        """The live widget, and beside it what GitHub, a screen reader or a test can read."""
        idle = self.without_effect(**self.settings)
        shown = {
            control.description: self._shown(name, control.value)
            for name, control in self.controls.items()
            if name not in idle
        }
        inputs = "".join(f"<li>{escape(f'{k}: {v}')}</li>" for k, v in shown.items())
        html = (
            f"<div><b>{escape(self.title)}</b><ul>{inputs}</ul>"
            f"{self._headline.value}<p>{self._changed.value}</p>{self._details.value}</div>"
        )
        lines = [self.title, "; ".join(f"{k}: {v}" for k, v in shown.items())]
        if self.error:
            lines.append(f"not possible: {self.error}")
        else:
            lines += [self.current.headline, self.current.formula]
            lines += [self.current.limit.words] if self.current.limit else []
        return super()._repr_mimebundle_(**kwargs) | {
            "text/plain": "\n".join(lines),
            "text/html": html,
        }


def _headline_html(result: Result) -> str:
    return (
        f"<div class='sizing-headline'><b>{escape(result.headline)}</b></div>"
        + (bar(result.limit) if result.limit else "")
        + "".join(f"<div>{escape(note)}</div>" for note in result.notes)
    )


def _details_html(result: Result) -> str:
    return (
        f"<p><i>{escape(result.caption)}</i></p><p><code>{escape(result.formula)}</code></p>"
        + listing(result.listing)
        + table(result.columns, result.rows)
        + paragraph(result.accuracy, "How far off: ")
        + paragraph(result.source, "Source: ")
    )


# --- controls ----------------------------------------------------------------------------


def _fold(heading: str, boxes: list[widgets.Widget]) -> widgets.VBox:
    """A group of controls under a button that shows and hides them."""
    inside = widgets.VBox(boxes)
    button = widgets.Button(layout={"width": "auto"}, tooltip=f"{heading}: show or hide")
    button.add_class("sizing-fold")

    def turn(shown: bool) -> None:
        inside.layout.display = None if shown else "none"
        button.description = f"{'▾' if shown else '▸'} {heading}"

    button.on_click(lambda _: turn(inside.layout.display == "none"))
    turn(False)
    group = widgets.VBox([button, inside])
    group.add_class("sizing-group")
    return group


def dropdown(label: str, options, value=None) -> widgets.Dropdown:
    """A drop-down; options are values, or (shown, value) pairs. By default the first is chosen."""
    pairs = [option if isinstance(option, tuple) else (str(option), option) for option in options]
    chosen = pairs[0][1] if value is None else value
    return widgets.Dropdown(
        options=pairs, value=chosen, description=label, style=_LABEL, layout=_WIDE
    )


class Scale(widgets.SelectionSlider):
    """A slider over steps that takes any value between and beyond them as a step of its own.

    Args:
        steps: its values; whole numbers if all of them are, 0 allowed if it is among them.
        shown: a value as a person reads it.
        most: the largest value allowed, None for no limit.
    """

    def __init__(self, steps, shown, most: float | None = None, **settings):
        self.steps, self.shown, self.most = tuple(steps), shown, most
        self.whole = all(isinstance(step, int) for step in self.steps)
        super().__init__(options=[(shown(step), step) for step in self.steps], **settings)

    def check(self, name: str, value: Any) -> None:
        """Whether a setting of this name can have the value.

        Raises:
            ValueError: names the setting, the value and what is allowed.
        """
        kind = Integral if self.whole else Real
        least = 0 if 0 in self.steps else 1 if self.whole else None
        number = isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
        enough = number and (value > 0 if least is None else value >= least)
        if enough and (self.most is None or value <= self.most):
            return
        bound = "above 0" if least is None else f">= {least}"
        limit = f" and <= {self.most:g}" if self.most is not None else ""
        what = "a whole number" if self.whole else "a number"
        raise ValueError(f"{name}: {value!r} given; allowed: {what} {bound}{limit}")

    def choose(self, value) -> None:
        """Take a value that `check` allows, as a step of its own if it is none."""
        value = int(value) if self.whole else value
        options = self.options
        if value not in [step for _, step in options]:
            steps = sorted({*self.steps, value})
            options = tuple((self.shown(step), step) for step in steps)
        if options != self.options:
            self.options = options
        self.value = value


def scale(label: str, values, value, shown, most: float | None = None) -> Scale:
    """A slider over given values that shows each as a person reads it (`shown` of the value)."""
    layout = _WIDE | {"flex": "1 1 auto"}  # what the field beside it leaves
    return Scale(values, shown, most, value=value, description=label, style=_LABEL, layout=layout)


_SUFFIXES = {"": 1, "%": 0.01, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def read_number(name: str, text: str) -> float | int:
    """A number as people type it: 340, 4,096, 1.4e12, 1.4T, 40 %; words after it are left out.

    Raises:
        ValueError: names the setting, the text and what is allowed.
    """
    found = re.fullmatch(
        r"\s*([-+]?[\d,_ ]*\.?\d+(?:[eE][-+]?\d+)?)\s*([kMBGT%]?)(?:\s+[A-Za-z/ ]*)?\s*", text
    )
    if not found:
        raise ValueError(f"{name}: {text!r} given; allowed: a number, such as 340, 1.4e12 or 1.4T")
    number = float(re.sub("[,_ ]", "", found[1])) * _SUFFIXES[found[2]]
    return int(number) if number == int(number) else number


def text(label: str, placeholder: str, height: str = "84px") -> widgets.Textarea:
    """A field of several lines to paste into."""
    return widgets.Textarea(
        description=label,
        placeholder=placeholder,
        style=_LABEL,
        layout=_WIDE | {"height": height},
    )


def percent(label: str, value: float, least: float, most: float) -> Scale:
    """A slider of whole percents whose value is the fraction."""
    steps = [p / 100 for p in range(round(100 * least), round(100 * most) + 1)]
    return scale(label, steps, value, lambda v: f"{100 * v:.3g}%", most=1)


def powers_of_two(least: int, most: int) -> list[int]:
    return [2**k for k in range(least.bit_length() - 1, most.bit_length())]


def decades(least: float, most: float, steps=(1, 1.5, 2, 3, 5, 7)) -> list[float]:
    """Round values, six a decade, from `least` to `most`."""
    values, factor = [], least
    while factor <= most:
        values += [step * factor for step in steps if step * factor <= most]
        factor *= 10
    return values


def _check(name: str, value: Any, control: widgets.ValueWidget) -> None:
    if isinstance(control, widgets.Textarea):
        if not isinstance(value, str):
            raise ValueError(f"{name}: {type(value).__name__} given; allowed: text")
        return
    if isinstance(control, Scale):
        control.check(name, value)
        return
    allowed = [option for _, option in control.options]
    if value not in allowed:
        few = allowed if len(allowed) <= 12 else [*allowed[:5], "...", *allowed[-3:]]
        raise ValueError(f"{name}: {value!r} given; allowed: {', '.join(map(str, few))}")
