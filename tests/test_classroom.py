"""A class's guesses in a shared folder: no names, nothing by default, nothing lost."""

import getpass
import json
import os
import stat
import subprocess
import sys
from html import unescape
from multiprocessing import get_context

import pytest

from sizing.course import classroom, predict, reveal
from sizing.units import DATA


@pytest.fixture
def learner(monkeypatch, tmp_path):
    """Sit down as a learner: `learner("ann")`; guesses then go to that one's folder."""
    monkeypatch.delenv("SIZING_RECORDED", raising=False)
    shared = tmp_path / "class"
    shared.mkdir()
    monkeypatch.setenv("SIZING_CLASS", str(shared))

    def sit(name):
        monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path / name))
        classroom._token.cache_clear()

    sit("first")
    sit.shared = shared
    yield sit
    classroom._token.cache_clear()


def commit(value, name="01.share", unit="%"):
    widget = predict(name, "Which share?", unit=unit)
    widget.box.value = str(value)
    widget.button.click()
    return unescape(widget.status.value)


def files(learner):
    return sorted(learner.shared.glob("*.json"))


def test_nothing_is_pooled_by_default(learner, monkeypatch, capsys):
    monkeypatch.delenv("SIZING_CLASS")
    assert commit(30) == "Committed: 30 %."
    reveal("01.share", 40)
    assert "class" not in capsys.readouterr().out and list(learner.shared.iterdir()) == []
    assert not (learner.shared.parent / "first" / "class-token").exists()


def test_a_class_sees_its_guesses_beside_the_answer(learner, capsys):
    for number, value in enumerate((12, 15, 30, 40, 45, 300)):
        learner(f"learner-{number}")
        assert commit(value).endswith("It joined the class's, without your name.")
    reveal("01.share", 62.5)
    told = capsys.readouterr().out
    assert "The class: 6 guesses, median 35 %, the middle half from 18.75 to 43.75 %." in told
    assert told.splitlines()[-5:] == [
        "    10 to 20 % |   2 ##",
        "    20 to 50 % |   3 ###",
        "   50 to 100 % |   0   <- it is 62.5 %",
        "  100 to 200 % |   0",
        "  200 to 500 % |   1 #",
    ]
    assert classroom.report(learner.shared, "01").splitlines()[1:] == told.splitlines()[-6:]


def test_no_name_is_kept(learner):
    commit(30)
    (path,) = files(learner)
    assert json.loads(path.read_text()) == {"01.share": {"unit": "%", "guess": 30.0}}
    assert len(path.stem) == 32 and int(path.stem, 16) > 0  # 128 random bits
    assert getpass.getuser() not in path.name + path.read_text()


def test_a_learner_counts_once_and_only_before_the_answer(learner, capsys):
    commit(30)
    classroom._token.cache_clear()  # the next day
    commit(50)
    reveal("01.share", 40)
    commit(40)  # the answer is known now
    (path,) = files(learner)
    assert json.loads(path.read_text())["01.share"] == {"unit": "%", "guess": 50.0, "actual": 40.0}
    assert "1 guesses; shown from 3 on" in capsys.readouterr().out


def test_recorded_mode_pools_too(learner, monkeypatch):
    monkeypatch.setenv("SIZING_RECORDED", "1")
    commit(30, name="01.recorded")
    assert "01.recorded" in files(learner)[0].read_text()


@pytest.mark.parametrize("place", ["missing", "file"])
def test_a_class_that_cannot_be_reached_costs_no_guess(learner, monkeypatch, place, capsys):
    (learner.shared / "file").touch()
    monkeypatch.setenv("SIZING_CLASS", str(learner.shared / place))
    said = commit(30)
    assert said.startswith("Committed: 30 %. It did not reach the class's folder")
    reveal("01.share", 40)
    told = capsys.readouterr().out
    assert "you guessed 30 %, it is 40 %" in told and "could not be read" in told


def test_what_others_left_in_the_folder_is_no_danger(learner, tmp_path):
    for value in (10, 20, 30):
        learner(str(value))
        commit(value)
    good = classroom.report(learner.shared)
    box = learner.shared
    (box / "list.json").write_text("[1, 2]")
    (box / "half.json").write_text('{"01.share": {"guess"')
    (box / "bytes.json").write_bytes(b"\xff\xfe")
    (box / "strange.json").write_text(
        '{"01.share": {"unit": "%", "guess": NaN}, "a": {"unit": 3, "guess": 1}, "b": 4}'
    )
    (box / "large.json").write_text(
        json.dumps({f"x{n}": {"unit": "", "guess": 1} for n in range(20_000)})
    )
    secret = tmp_path / "secret.json"
    secret.write_text('{"01.secret": {"unit": "", "guess": 1}}')
    (box / "link.json").symlink_to(secret)
    (box / "folder.json").mkdir()
    assert classroom.report(box) == good


def _guess_at_once(folder, number):
    os.environ["SIZING_CLASS"] = str(folder)
    classroom.join(f"q{number}", "GB", guess=number + 1.0)


def test_notebooks_of_one_learner_at_once_lose_nothing(learner):
    classroom._token()  # kept in the learner's folder, which all of them read
    with get_context("spawn").Pool(4) as pool:
        pool.starmap(_guess_at_once, [(learner.shared, number) for number in range(12)])
    (path,) = files(learner)
    assert set(json.loads(path.read_text())) == {f"q{n}" for n in range(12)}
    assert [p.name for p in learner.shared.iterdir()] == [path.name]  # no lock, no part left


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs other accounts: root")
def test_in_a_box_learners_put_in_and_only_the_instructor_looks(tmp_path_factory):
    """Mode 1733 and accounts of their own, as on a hub, whose learners have a umask of 077."""
    tmp_path = tmp_path_factory.mktemp("box")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    box = tmp_path / "class"
    box.mkdir()
    box.chmod(0o1733)
    code = (  # imported first: another account may not read where the course stands
        "import os, sys\n"
        "from sizing.course import classroom\n"
        "os.setgroups([]); os.setgid(60_000); os.setuid(int(sys.argv[2])); os.umask(0o077)\n"
        "print(classroom.join('01.share', '%', guess=float(sys.argv[1])))\n"
        "print(classroom.shown('01.share', '%', 40.0))\n"
        "print(classroom.join('01.share', '%', guess=float(sys.argv[1]) + 1))"
    )
    for number in range(3):
        home = tmp_path / f"home-{number}"
        home.mkdir()
        os.chown(home, 60_000 + number, 60_000)
        env = {"SIZING_CLASS": str(box), "SIZING_LEARNER_DIR": str(home), "PATH": os.defpath}
        done = subprocess.run(
            [sys.executable, "-c", code, str(20 + number), str(60_000 + number)],
            env=env | {"PYTHONPATH": str(DATA.parent)},
            cwd=home,
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines() == [
            "It joined the class's, without your name.",
            "The class's guesses are with the instructor.",
            "It joined the class's, without your name.",
        ], done.stderr
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in box.iterdir())
    assert "3 guesses, median 22 %" in classroom.report(box)


def test_the_instructor_s_command(learner, capsys):
    assert classroom.main([str(learner.shared)]) == 0
    assert capsys.readouterr().out == "No guess yet.\n"
    for number in range(3):
        learner(str(number))
        commit(10 * 4**number, name="02.hours", unit="h")
        commit(7, name="01.share")
    assert classroom.main([str(learner.shared), "02"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("02.hours\nThe class: 3 guesses, median 40 h") and "01." not in told
    assert classroom.main([str(learner.shared / "nowhere")]) == 1


@pytest.mark.parametrize("value", [0.001, 1, 9.99, 10, 99.9, 1e9, 3e-7])
def test_every_value_has_its_bar(value):
    text = classroom.histogram([value] * 50, "s")
    (bar,) = text.splitlines()[1:]
    assert "|  50 " in bar and bar.count("#") == classroom.WIDEST
