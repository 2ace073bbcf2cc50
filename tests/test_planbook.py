"""The plan that grows by a line per lesson: kept whole, in order, and caught up."""

import json
import re
import threading

import pytest
from hygiene import code_cells, notebooks, read

import sizing
from sizing.course import catch_up, plan
from sizing.course import story as told
from sizing.course.planbook import LESSONS, Plan

NOTE = re.compile(r"\bplan\.note\(\s*[\"']([^\"']+)[\"']")


@pytest.fixture
def live(monkeypatch, tmp_path):
    """As a learner runs it: the plan goes to a file. Returns the file."""
    monkeypatch.delenv("SIZING_RECORDED", raising=False)
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    return tmp_path / "plan.json"


def test_the_search_keeps_its_name():
    assert callable(sizing.plan) and isinstance(plan, Plan)


def test_lines_are_kept_in_the_order_of_the_lessons(live, capsys):
    plan.note("sequence", "4096 tokens")
    plan.note("my own", "ask the boss")
    plan.note("model", "gpt2")
    plan.note("model", "llama-3.2-3b")
    assert list(plan.lines().items()) == [
        ("model", "llama-3.2-3b"),
        ("sequence", "4096 tokens"),
        ("my own", "ask the boss"),
    ]
    assert json.loads(live.read_text()) == plan.lines()
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "plan, model: llama-3.2-3b",
        "  (before: gpt2)",
    ]
    assert "01  model     llama-3.2-3b" in repr(plan)
    assert "<td style='text-align:left'>llama-3.2-3b</td>" in plan._repr_html_()


@pytest.mark.parametrize(
    ("topic", "line", "says"),
    [
        ("", "x", "topic: ''"),
        ("model", " ", "line: ' '"),
        ("model", 3, "line: 3"),
        (None, "x", "N"),
    ],
)
def test_a_line_without_text_is_refused(live, topic, line, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        plan.note(topic, line)
    with pytest.raises(ValueError, match="201 characters given; allowed: 200 at most"):
        plan.note("model", "x" * 201)
    assert not live.exists()


def test_catching_up_writes_what_is_missing_and_no_more(live):
    plan.note("model", "my own choice")
    catch_up("02")
    assert plan.lines() == {"budget": told.line("budget"), "model": "my own choice"}
    assert catch_up("12") is plan
    assert set(plan.lines()) == set(told.TOPICS) and plan.missing() == []
    before = live.read_bytes()
    catch_up("12")
    assert live.read_bytes() == before


@pytest.mark.parametrize("lesson", ["5", "13", 5, "", "memory"])
def test_catching_up_needs_a_lesson(live, lesson):
    with pytest.raises(ValueError, match=r"lesson: .* allowed: '00' to '12'"):
        catch_up(lesson)


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b'{"model": 3}'])
def test_a_damaged_plan_is_set_aside(live, capsys, damage):
    live.write_bytes(damage)
    plan.note("model", "gpt2")
    assert plan.lines() == {"model": "gpt2"}
    assert plan.set_aside.read_bytes() == damage
    assert "could not be read; it is in" in capsys.readouterr().out


def test_two_notebooks_at_once_lose_no_line(live):
    def work(name):
        for number in range(10):
            plan.note(f"{name}{number}", "x")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plan.lines()) == 30
    assert [path.name for path in live.parent.iterdir()] == ["plan.json"]


def test_recorded_lines_live_in_the_session_alone(live, monkeypatch):
    monkeypatch.setenv("SIZING_RECORDED", "1")
    plan._session.clear()
    plan.note("model", "gpt2")
    assert plan.lines() == {"model": "gpt2"} and not live.exists()
    plan._session.clear()


def test_the_courses_own_lines_are_short_and_sizings():
    for topic, lesson in told.TOPICS.items():
        assert lesson in LESSONS and 20 < len(told.line(topic)) <= 120, topic
    count = sizing.Model(told.MODEL).parameters.total
    assert f"{count:,}" in told.line("model")
    assert told.tokens() * 6 * count == pytest.approx(
        8 * 14 * 86400 * 0.4 * sizing.hardware.gpu("h100-sxm").peak_flops("bf16")
    )
    with pytest.raises(ValueError, match=r"topic: 'x' given; allowed: budget, model"):
        told.line("x")


def test_each_lesson_notes_its_own_topics():
    for path in notebooks("notebooks"):
        noted = [n for _, cell in code_cells(read(path)) for n in NOTE.findall(cell.source)]
        expected = [topic for topic, lesson in told.TOPICS.items() if lesson == path.name[:2]]
        assert noted in ([], expected), path.name  # [] until a lesson has its line
