"""`plan`: the one project that all lessons size, a line per lesson, printed whole in lesson 11.

You have 8 H100s for two weeks: which model, and will it fit? Each lesson ends in
``plan.note("memory", "...")``. The lines are kept in `plan.json` in the learner's folder;
``catch_up("05")`` writes the lines of the lessons before 05 that are missing, with the course's own
choices (`story`). With `SIZING_RECORDED=1` the lines live as long as the session.
"""

import json
import time
from html import escape
from pathlib import Path

from ..measuring.recording import learner_directory, recorded_only, replace_text
from . import story
from .keeping import locked

QUESTION = "8 H100s for two weeks: which model, on how many tokens, and will it fit?"
COLUMNS = ("lesson", "topic", "line")


class Plan:
    """Lines by topic, in a file, or, without one, kept for this session.

    ``where`` is a function that gives the file, or None: it is asked each time. A file that holds
    no plan is set aside under another name, never overwritten.
    """

    def __init__(self, where=lambda: None):
        self._where = where
        self._session: dict[str, str] = {}
        self.set_aside: Path | None = None

    def note(self, topic: str, line: str) -> None:
        """Keep a line; one of the same topic is replaced, and what was there is printed.

        ValueError for a topic or a line without text, or a line over 200 characters. OSError if
        the file cannot be written.
        """
        for what, text in (("topic", topic), ("line", line)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{what}: {text!r} given; allowed: text")
        if len(line) > 200:
            raise ValueError(f"line: {len(line)} characters given; allowed: 200 at most")
        before = self._keep({topic.strip(): " ".join(line.split())})
        print(f"plan, {topic.strip()}: {' '.join(line.split())}")
        old = before.get(topic.strip())
        if old not in (None, " ".join(line.split())):
            print(f"  (before: {old})")

    def lines(self) -> dict[str, str]:
        """The line of each topic, in the order of the lessons, the learner's own topics last."""
        kept, path = self._session, self._where()
        if path is not None:
            kept = self._read(path)
        order = {topic: place for place, topic in enumerate(story.TOPICS)}
        return dict(sorted(kept.items(), key=lambda item: order.get(item[0], len(order))))

    def missing(self, before: str = "99") -> list[str]:
        """The topics of the lessons before a lesson that have no line yet."""
        kept = self.lines()
        return [t for t, lesson in story.TOPICS.items() if lesson < before and t not in kept]

    def rows(self) -> list[tuple[str, str, str]]:
        """Lesson, topic and line of each line: `COLUMNS`."""
        return [(story.TOPICS.get(topic, ""), topic, line) for topic, line in self.lines().items()]

    def __repr__(self) -> str:
        rows = self.rows()
        if not rows:
            return f"{QUESTION}\nNo line yet."
        width = max(len(topic) for _, topic, _ in rows)
        body = [f"{lesson:2}  {topic:{width}}  {line}" for lesson, topic, line in rows]
        return "\n".join([QUESTION, *body])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(c)}</td>" for c in row) + "</tr>"
            for row in self.rows()
        )
        table = f"<table><tr>{head}</tr>{body}</table>" if body else "<p>No line yet.</p>"
        return f"<p><b>{escape(QUESTION)}</b></p>{table}"

    def _keep(self, lines: dict[str, str]) -> dict[str, str]:
        """Add lines; returns what was there before."""
        path = self._where()
        if path is None:
            before = dict(self._session)
            self._session |= lines
            return before
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            before = self._read(path)
            replace_text(path, json.dumps(before | lines, indent=1, ensure_ascii=False))
        return before

    def _read(self, path: Path) -> dict[str, str]:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(kept, dict) or not all(isinstance(v, str) for v in kept.values()):
                raise ValueError("not a plan")
        except FileNotFoundError:
            return {}
        except ValueError:  # also what json and utf-8 raise
            self.set_aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}.json")
            path.rename(self.set_aside)
            print(f"The plan could not be read; it is in {self.set_aside}.")
            return {}
        return kept


def _file() -> Path | None:
    return None if recorded_only() else learner_directory().parent / "plan.json"


plan = Plan(_file)


def catch_up(lesson: str) -> Plan:
    """Write the lines of the lessons before ``lesson`` that are missing; returns the plan.

    The lines are the course's own choices (`sizing/course/story.py`); lines that are there stay.
    ValueError unless ``lesson`` is one from "00" to "12", such as "05".
    """
    if lesson not in LESSONS:
        raise ValueError(f"lesson: {lesson!r} given; allowed: {LESSONS[0]!r} to {LESSONS[-1]!r}")
    own = {topic: story.line(topic) for topic in plan.missing(before=lesson)}
    if own:
        plan._keep(own)
    return plan


LESSONS = tuple(f"{number:02}" for number in range(13))
