"""What the notebooks teach with: verdicts on answers, predictions and the look at the machine."""

import json
import math
import threading
from fractions import Fraction
from importlib import import_module
from importlib.metadata import version

import numpy as np
import pytest
import torch

from sizing.course import check, environment, predict, reveal
from sizing.course.checking import exercises, find
from sizing.course.exercise import RIGHT, UNANSWERED, WRONG, Exercise, judge
from sizing.course.guesses import Guesses, calibration, outcomes, spread
from sizing.course.machine import pins
from sizing.course.predicting import read_number

# The functions of these names hide their modules as attributes of the package.
CHECK, ENVIRONMENT, PREDICT = (
    import_module(f"sizing.course.{name}") for name in ("checking", "machine", "predicting")
)

SIZE = Exercise(
    "size",
    answer=lambda: 40 / 2**30 * 1e9,
    unit="GiB",
    mistakes=((40, "That is GB: a GiB is 2^30 bytes."), (20, "You counted 1 byte a weight.")),
    because="16 bytes for each of 2.5 billion.",
)
COUNT = Exercise("count", answer=124_439_808, unit="parameters", tolerance=0)
WORD = Exercise("word", answer="memory", mistakes=(("compute", "Its intensity is too low."),))
TRUTH = Exercise("truth", answer=True, mistakes=((False, "It does change."),))
PAIR = Exercise("pair", answer=(3, 4), mistakes=(((4, 3), "The wrong way round."),))
PARTS = Exercise("parts", answer={"mlp": 8, "attention": 4}, unit="GB")
FUNCTION = Exercise(
    "function",
    answer=lambda hidden, layers: 12 * layers * hidden**2,
    inputs=((768, 12), (1024, 24)),
    mistakes=((lambda hidden, layers: 8 * layers * hidden**2, "The attention is missing."),),
)
ALL = (SIZE, COUNT, WORD, TRUTH, PAIR, PARTS, FUNCTION)


@pytest.mark.parametrize(
    ("exercise", "given"),
    [
        (SIZE, 37.25),
        (SIZE, np.float32(37.25)),
        (SIZE, np.array(37.25)),
        (SIZE, torch.tensor(37.25)),
        (SIZE, Fraction(149, 4)),
        (SIZE, 37.25 * 1.009),
        (COUNT, 124_439_808),
        (COUNT, 124_439_808.0),
        (COUNT, np.int64(124_439_808)),
        (WORD, "memory"),
        (WORD, " Memory "),
        (TRUTH, True),
        (TRUTH, np.bool_(True)),
        (PAIR, (3, 4)),
        (PAIR, [3.0, np.float64(4)]),
        (PAIR, np.array([3, 4])),
        (PARTS, {"attention": 4, "mlp": 8}),
        (FUNCTION, lambda hidden, layers: layers * 12 * hidden * hidden),
    ],
)
def test_right(exercise, given):
    assert judge(exercise, given).status == RIGHT


def test_right_says_the_figure_and_why():
    assert judge(SIZE, 37.3).text == "37.2529 GiB. 16 bytes for each of 2.5 billion."


@pytest.mark.parametrize(
    ("exercise", "given", "says"),
    [
        (SIZE, ..., "a number (GiB, within 1 %)"),
        (COUNT, ..., "a number (parameters, exact)"),
        (WORD, ..., "one of 'compute', 'memory'"),
        (TRUTH, ..., "True or False"),
        (PAIR, ..., "2 values, each a number"),
        (PAIR, (3, ...), "Value 2 is `...`"),
        (PARTS, {"mlp": 8, "attention": ...}, "'attention' is `...`"),
        (FUNCTION, ..., "a function, tried on 2 inputs"),
        (FUNCTION, lambda hidden, layers: ..., "a function, tried on 2 inputs"),
        (
            FUNCTION,
            lambda hidden, layers: ... if hidden == 1024 else 84_934_656,
            "Your result for input 2, (1024, 24), is `...`",
        ),
    ],
)
def test_unanswered(exercise, given, says):
    verdict = judge(exercise, given)
    assert verdict.status == UNANSWERED
    assert says in verdict.text


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_known_mistake_has_its_own_message(exercise):
    for mistake, why in exercise.mistakes:
        verdict = judge(exercise, mistake)
        assert (verdict.status, verdict.text) == (WRONG, why)


@pytest.mark.parametrize("given", [(4, 4), (4, 0), (4, "many")])
def test_a_mistake_may_leave_a_value_open(given):
    exercise = Exercise("open", answer=(3, 4), mistakes=(((4, ...), "The first is one more."),))
    assert judge(exercise, given).text == "The first is one more."
    assert judge(exercise, (3, 5)).text != "The first is one more."


def test_the_words_of_one_key_do_not_tell_its_answer():
    exercise = Exercise(
        "words",
        answer={"A": "always", "B": "never"},
        mistakes=(({"A": ..., "B": "sometimes"}, "Look at B again."),),
    )
    said = judge(exercise, {"A": "no", "B": "never"}).text
    assert "'always', 'never', 'sometimes'" in said


class Odd:
    def tolist(self):
        raise NotImplementedError("no data")


@pytest.mark.parametrize(
    ("exercise", "given", "says"),
    [
        (SIZE, "37 GiB", "must be a number (GiB), not the text '37 GiB'"),
        (SIZE, True, "must be a number (GiB), not True"),
        (SIZE, None, "not None"),
        (SIZE, 1j, "not an object of type complex"),
        (SIZE, math.nan, "is nan"),
        (SIZE, math.inf, "is inf"),
        (SIZE, 10**400, "is inf"),
        (SIZE, [37.25, 1], "1 value is asked for, and you gave 2"),
        (SIZE, [37.25], "Give the value alone"),
        (SIZE, [], "you gave 0"),
        (SIZE, lambda: 37.25, "You gave a function"),
        (SIZE, Odd(), "Reading your answer stops with NotImplementedError: no data"),
        (SIZE, torch.empty((), device="meta"), "Reading your answer stops with"),
        (SIZE, -37.25, "-37.25 GiB: the right size with the wrong sign."),
        (SIZE, 0, "0 GiB: too small."),
        (SIZE, 38, "close, but a little too large (within 1 % is asked for)"),
        (SIZE, 200, "200 GiB: too large."),
        (SIZE, 500, "too large, by more than ten times"),
        (SIZE, 37253, "too large by a factor of 1,000, so look at the unit"),
        (SIZE, 37.25 / 2**20, "too small by a factor of 1,048,576, so look at the unit"),
        (COUNT, 124_439_809, "close, but a little too large (exact is asked for)"),
        (WORD, "disk", "must be one of 'compute', 'memory', not the text 'disk'"),
        (WORD, 3, "must be one of 'compute', 'memory', not 3"),
        (TRUTH, 1, "must be True or False, not 1"),
        (PAIR, 3, "2 values are asked for, and you gave 1"),
        (PAIR, (3, 5), "Value 2 is 5: too large"),
        (PARTS, {"mlp": 8, "attn": 4}, "There is no 'attention' in your answer"),
        (PARTS, {"mlp": 9, "attention": 4}, "'mlp' is 9 GB: too large"),
        (FUNCTION, 85e6, "A function is asked for"),
        (FUNCTION, lambda hidden: 1, "Your function stops with TypeError"),
        (FUNCTION, lambda hidden, layers: 1 / 0, "ZeroDivisionError: division by zero"),
        (FUNCTION, lambda hidden, layers: exit(), "Your function stops with SystemExit"),
        (FUNCTION, lambda hidden, layers: "85 M", "must be a number, not the text '85 M'"),
        (FUNCTION, lambda hidden, layers: None, "input 1, (768, 12), must be a number, not None"),
        (FUNCTION, lambda hidden, layers: 84_934_656, "input 2, (1024, 24), is 84,934,656"),
    ],
)
def test_wrong_is_explained(exercise, given, says):
    verdict = judge(exercise, given)
    assert verdict.status == WRONG
    assert says in verdict.text


def test_a_function_may_change_its_arguments():
    total = Exercise("total", answer=sum, inputs=(([1, 2, 3],),))
    assert judge(total, lambda values: values.pop() + values.pop() + values.pop()).status == RIGHT
    assert judge(total, sum).status == RIGHT


@pytest.mark.parametrize("tolerance", [-0.1, 1, math.nan])
def test_tolerance_is_checked(tolerance):
    with pytest.raises(ValueError, match=r"tolerance of exercise 'x' .* allowed: 0 <= x < 1"):
        Exercise("x", answer=1, tolerance=tolerance)


def test_inputs_need_a_function():
    with pytest.raises(ValueError, match="answer of exercise 'x' is 3; with inputs"):
        Exercise("x", answer=3, inputs=((1,),))


def test_check_prints_and_never_raises(capsys, monkeypatch):
    broken = Exercise("broken", answer=lambda: 1 / 0)
    declared = {"lab.size": SIZE, "lab.broken": broken}
    monkeypatch.setattr(CHECK, "exercises", lambda: declared)
    for name, answer in [("lab.size", 37.25), ("lab.siz", 1), ([], 1), ("lab.broken", 1)]:
        assert check(name, answer) is None
    right, unknown, unhashable, failed = capsys.readouterr().out.splitlines()
    assert right == "lab.size: right. 37.2529 GiB. 16 bytes for each of 2.5 billion."
    assert unknown == "lab.siz: not judged. There is no exercise 'lab.siz'; allowed: lab.size"
    assert unhashable.startswith("[]: not judged.")
    assert failed == "lab.broken: not judged. division by zero"


def test_unknown_exercise_lists_what_there_is(monkeypatch):
    monkeypatch.setattr(CHECK, "exercises", lambda: {"lab.size": SIZE})
    with pytest.raises(ValueError, match=r"'zzz'; allowed: lab\.size"):
        find("zzz")


def test_every_lab_has_exercises():
    labs = {name.split(".")[0] for name in exercises()}
    assert {"lab01", "lab02"} <= labs


# Guesses and what they turned out to be


def test_guesses_outlive_the_session(tmp_path):
    path = tmp_path / "new" / "predictions.json"
    Guesses(path).guess("a", 2.0, "s")
    assert Guesses(path).reveal("a", 4.0) == 2.0
    Guesses(path).guess("a", 5.0, "s")
    kept = [(e["name"], e.get("guess"), e.get("actual")) for e in json.loads(path.read_text())]
    assert kept == [("a", 2.0, None), ("a", None, 4.0), ("a", 5.0, None)]


def test_revealing_again_adds_nothing(tmp_path):
    guesses = Guesses(tmp_path / "predictions.json")
    assert guesses.reveal("a", 4.0) is None
    guesses.guess("a", 2.0)
    assert [guesses.reveal("a", 4.0) for _ in range(3)] == [2.0, 2.0, 2.0]
    assert len(guesses.entries()) == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"[{", b"\xff\xfe", b"{}", b"[1]", b'[{"name": "a"}]', b'[{"name": "a", "guess": -1}]'],
)
def test_damaged_file_is_set_aside_whole(tmp_path, damage):
    path = tmp_path / "predictions.json"
    path.write_bytes(damage)
    guesses = Guesses(path)
    guesses.guess("b", 1.0)
    assert guesses.set_aside.read_bytes() == damage
    assert [entry["name"] for entry in Guesses(path).entries()] == ["b"]


def test_two_notebooks_at_once_lose_no_guess(tmp_path):
    path = tmp_path / "predictions.json"

    def work(name):
        for value in range(1, 16):
            Guesses(path).guess(name, value)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Guesses(path).entries()) == 4 * 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.json"]


def test_lock_of_a_killed_kernel_is_taken_over(tmp_path):
    path = tmp_path / "predictions.json"
    (tmp_path / "predictions.json.lock").touch()
    Guesses(path).guess("a", 1.0)
    assert len(Guesses(path).entries()) == 1


def entries(*events):
    return [{"name": name, kind: value} for name, kind, value in events]


def test_what_counts_is_the_last_guess_before_the_first_reveal():
    events = entries(
        ("a", "guess", 1),
        ("a", "guess", 2),
        ("b", "actual", 7),
        ("a", "actual", 8),
        ("a", "guess", 8),
        ("a", "actual", 8),
    )
    assert outcomes(events) == {"a": -2.0}


def test_calibration_compares_with_the_predictions_before():
    def predictions(names, guess):
        return [e for n in names for e in ((n, "guess", guess), (n, "actual", 1))]

    assert spread([-1, 0.5, 2]) == 2
    assert calibration([]) == "No prediction has been revealed yet."
    assert calibration(entries(*predictions("a", 3))) == (
        "Your first prediction, within a factor of 3.0."
    )
    events = predictions(range(10), 8) + predictions(range(10, 20), 0.5)
    assert calibration(entries(*events)) == (
        "Over your last 10 predictions you were within a factor of 2.0 in the median "
        "(8.0 over the 10 before)."
    )


# The widget


@pytest.fixture
def live(monkeypatch, tmp_path):
    """As a learner runs it: guesses go to a file. Returns the file."""
    monkeypatch.delenv("SIZING_RECORDED", raising=False)
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    return tmp_path / "predictions.json"


def test_guess_is_typed_committed_and_revealed(live, capsys):
    widget = predict("00.test", "How fast?", unit="TFLOP/s")
    widget.box.value = "2.5e3"
    assert widget.status.value == "2,500 TFLOP/s: press Enter or Commit to keep it."
    assert not live.exists()
    widget.button.click()
    assert widget.status.value == "Committed: 2,500 TFLOP/s."
    assert json.loads(live.read_text())[0]["guess"] == 2500
    reveal("00.test", 5000)
    assert capsys.readouterr().out == (
        "00.test: you guessed 2,500 TFLOP/s, it is 5,000 TFLOP/s:\n"
        "  2 times too low, and within a factor of 2 is good. "
        "Your first prediction, within a factor of 2.0.\n"
    )
    assert "Your guess so far: 2,500 TFLOP/s." in predict("00.test", "How fast?", "TFLOP/s").text


@pytest.mark.parametrize("typed", ["", "fast", "-1", "0", "inf", "nan", "2,5"])
def test_no_number_is_not_kept(live, typed):
    widget = predict("00.test", "How fast?")
    widget.box.value = typed
    widget.button.click()
    assert "is not a number greater than 0" in widget.status.value
    assert not live.exists()


def test_a_folder_that_cannot_be_used_is_said(live, monkeypatch, capsys):
    live.parent.joinpath("file").touch()
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(live.parent / "file" / "below"))
    widget = predict("00.test", "How fast?")
    assert widget.status.value.startswith("The earlier guesses could not be read: ")
    widget.box.value = "3"
    widget.button.click()
    assert widget.status.value.startswith("The guess could not be kept: ")
    reveal("00.test", 4)
    told = capsys.readouterr().out
    assert told.startswith("00.test: the guesses could not be read: ") and "it is" not in told
    reveal("00.test", 4, show=True)
    assert capsys.readouterr().out.endswith("00.test: it is 4.\n")


def test_damage_is_said(live, capsys):
    live.write_text("[")
    assert "could not be read; they are in " in predict("00.test", "How fast?").status.value
    live.write_text("[")
    reveal("00.test", 1.0)
    assert capsys.readouterr().out.startswith("The earlier guesses could not be read")


def test_recorded_text_does_not_depend_on_the_learner(live, monkeypatch):
    Guesses(live).guess("00.other", 3.0)
    before = live.read_bytes()
    monkeypatch.setenv("SIZING_RECORDED", "1")
    PREDICT._session.cache_clear()
    widget = predict("00.other", "How <fast>?", unit="s")
    assert widget.text == (
        "Predict. How <fast>? (in s)\n"
        "Commit a guess before you read on: within a factor of 2 is good."
    )
    widget.box.value = "3"
    widget.button.click()
    assert widget.status.value == "Committed: 3 s."
    assert live.read_bytes() == before


def test_what_is_stored_of_the_widget():
    bundle = predict("00.stored", "How <fast>?", unit="s")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("Predict. How <fast>? (in s)\n")
    assert "How &lt;fast&gt;? (in s)" in bundle["text/html"]
    assert "model_id" not in bundle["text/html"] + bundle["text/plain"]


@pytest.mark.parametrize(
    ("typed", "value"),
    [("2.5e3", 2500), (" 1,500 ", 1500), ("124 439 808", 124439808), ("1_000_000", 1e6)],
)
def test_numbers_as_people_type_them(typed, value):
    assert read_number(typed) == value


@pytest.mark.parametrize("actual", [0, -1, math.nan, math.inf])
def test_reveal_needs_a_positive_number(actual):
    with pytest.raises(ValueError, match=r"actual of '00.x' is .* allowed: a positive, finite"):
        reveal("00.x", actual)


@pytest.mark.parametrize(
    ("guess", "within", "says"),
    [
        (100, 2, "  good, within 5 %."),
        (102, 1.01, "  2 % too high."),
        (130, 2, "  30 % too high, and within a factor of 2 is good."),
        (130, 1.2, "  30 % too high."),
        (90, 1.2, "  10 % too low, and within 20 % is good."),
        (300, 2, "  3 times too high."),
        (1, 2, "  100 times too low."),
    ],
)
def test_verdict_in_words(live, capsys, guess, within, says):
    predict("00.r", "How fast?", within=within)
    Guesses(live).guess("00.r", guess)
    reveal("00.r", 100)
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("within", [1, 0.5, 0, -2, math.nan, math.inf])
def test_within_is_a_factor(live, within):
    with pytest.raises(ValueError, match=r"within of '00.x' is .* allowed: a factor above 1"):
        predict("00.x", "How fast?", within=within)


ADDED = {2.0: "the update is added", 1.5: "half of the updates are lost"}


@pytest.mark.parametrize(
    ("guess", "assumed"),
    [(2.0, ADDED[2.0]), (1.95, ADDED[2.0]), (1.5, ADDED[1.5]), (1.0, None), (1.7, None), (9, None)],
)
def test_a_misconception_is_named(live, capsys, guess, assumed):
    predict("00.m", "What is the weight?", within=1.1)
    Guesses(live).guess("00.m", guess)
    reveal("00.m", 1.0, ADDED)
    told = capsys.readouterr().out
    assert ("you assumed that" in told) == bool(assumed)
    if assumed:
        assert told.endswith(f"  You said {guess:g}: you assumed that {assumed}.\n")
        reveal("00.m", 1.0, ADDED)  # the second time the learner knows
        assert (
            f"  {guess:g} is what one gets who assumes that {assumed}." in capsys.readouterr().out
        )


def test_nothing_is_revealed_before_a_guess(live, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(PREDICT, "display", shown.append)
    for recorded in ("", "1"):
        monkeypatch.setenv("SIZING_RECORDED", recorded)
        PREDICT._session.cache_clear()
        reveal("00.w", 62.58, {50: "half of it"})
        assert capsys.readouterr().out == ""
        bundle = shown[-1]._repr_mimebundle_()
        stored = bundle["text/plain"] + bundle["text/html"]
        assert "no guess is committed yet" in stored
        sent = str([child.get_state() for child in shown[-1].children])
        assert "62.58" not in stored + sent and "half of it" not in stored + sent
    shown[-1].button.click()
    text = shown[-1]._repr_mimebundle_()["text/plain"]
    assert "00.w: it is 62.58. No guess was committed." in text
    assert "50 is what one gets who assumes that half of it." in text
    reveal("00.w", 62.58, show=True)
    assert capsys.readouterr().out == "00.w: it is 62.58. No guess was committed.\n"


def test_stored_notebooks_show_what_is_revealed(live, monkeypatch, capsys):
    monkeypatch.setenv("SIZING_ANSWERS", "shown")
    reveal("00.w", 62.58)
    assert capsys.readouterr().out == "00.w: it is 62.58. No guess was committed.\n"


def test_enter_commits_and_the_unit_may_be_typed(live):
    widget = predict("00.enter", "How much?", unit="%")
    widget.box.value = "30 %"
    widget.box._handle_custom_msg({"event": "submit"}, [])
    assert widget.status.value == "Committed: 30 %."
    assert json.loads(live.read_text())[0]["guess"] == 30


# The look at the machine


def test_environment_here(live):
    table = environment()
    rows = {row[0]: row for row in table.rows}
    assert rows["torch"][1:3] == (pins()["torch"], version("torch"))
    assert rows["Python"][3] == "ok"
    where = "GPU: " if torch.cuda.is_available() else "No CUDA GPU found. CPU: "
    assert table.notes[0].startswith(where)
    assert "GiB of memory" in table.notes[0]


def test_environment_names_what_is_wrong(live, monkeypatch):
    wanted = {"torch": "0.0.1", "no-such-package": "1.0"}
    monkeypatch.setattr(ENVIRONMENT, "pins", lambda: wanted)
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "10", "9"))
    verdicts = {row[0]: row[3] for row in environment().rows}
    assert verdicts["Python"] == "too old"
    assert verdicts["torch"].startswith("differs")
    assert verdicts["no-such-package"].startswith("missing")


def test_recorded_environment_looks_at_nothing(monkeypatch):
    monkeypatch.setenv("SIZING_RECORDED", "1")
    monkeypatch.setattr(ENVIRONMENT, "version", lambda name: pytest.fail("looked at " + name))
    monkeypatch.setattr(ENVIRONMENT, "_device", lambda: pytest.fail("looked for a device"))
    assert "this machine was not looked at" in repr(environment())
    html = environment()._repr_html_()
    assert all(f"<td>{name}</td><td>{pin}</td>" in html for name, pin in pins().items())
