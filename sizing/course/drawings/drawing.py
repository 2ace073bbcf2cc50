"""A drawing in steps: a slider, the picture, and what to see in it."""

from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets


@dataclass(frozen=True)
class Step:
    """One picture (SVG) and the sentence that says what it shows: its text alternative."""

    svg: str
    words: str


class Drawing(widgets.VBox):
    """Steps behind a slider; arrow keys move it. One step has no slider.

    ValueError without a step, or where `at` is asked for one that is not there.
    """

    def __init__(self, title: str, steps: tuple[Step, ...], label: str = "step"):
        if not steps:
            raise ValueError("steps: none given; allowed: at least one")
        self.title, self.steps = title, steps
        self.slider = widgets.IntSlider(
            value=0,
            min=0,
            max=len(steps) - 1,
            description=label,
            style={"description_width": "initial"},
            layout={"width": "420px", "display": None if len(steps) > 1 else "none"},
        )
        self.picture, self.words = widgets.HTML(), widgets.HTML()
        self.slider.observe(self._moved, "value")
        self._moved()
        head = widgets.HTML(f"<b>{escape(title)}</b>")
        super().__init__([head, self.slider, self.picture, self.words])
        self.add_class("sizing")

    def at(self, step: int) -> "Drawing":
        """The same drawing, moved to a step counted from 0."""
        if step not in range(len(self.steps)):
            raise ValueError(f"step: {step!r} given; allowed: 0 to {len(self.steps) - 1}")
        self.slider.value = step
        return self

    def _moved(self, _change: Any = None) -> None:
        step = self.steps[self.slider.value]
        self.picture.value = step.svg
        self.words.value = f"<div style='line-height:1.4'><i>{escape(step.words)}</i></div>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and beside it what GitHub, a screen reader or a test can read."""
        now = self.steps[self.slider.value]
        html = f"<div><b>{escape(self.title)}</b></div>{now.svg}<p><i>{escape(now.words)}</i></p>"
        lines = [self.title, *(step.words for step in self.steps)]
        return super()._repr_mimebundle_(**kwargs) | {
            "text/plain": "\n".join(lines),
            "text/html": html,
        }
