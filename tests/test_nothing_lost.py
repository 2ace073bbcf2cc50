"""Nothing of a learner's is lost: full disks, killed kernels, updates; with real ones of each."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from sizing.course import update
from sizing.course.copies import bring_all
from sizing.measuring import recording
from sizing.measuring.recording import Recording, replace_text

ROOT = Path(__file__).resolve().parents[1]


def run(code: str, limit: int | None = None, **environment: str):
    """Code in a process of its own, whose files can have at most `limit` bytes."""

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        preexec_fn=limited if limit else None,
    )


def wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


# -- a full disk


def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text("old")
    done = run(
        "from pathlib import Path; from sizing.measuring.recording import replace_text\n"
        f"replace_text(Path({str(path)!r}), 'x' * 100_000)",
        limit=50_000,
    )
    assert done.returncode == 1 and path.read_text() == "old"
    assert "what was to be kept in predictions.json is not" in done.stderr
    assert "SIZING_LEARNER_DIR" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.json"]  # no half file beside it


def test_a_guess_on_a_full_disk_says_that_it_was_not_kept(tmp_path):
    entries = [{"name": "x", "unit": "", "guess": 1.0, "time": ""}] * 900
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(entries))
    done = run(
        "from sizing.course import predict\n"
        "asked = predict('00.x', 'How fast?')\n"
        "asked.box.value = '2'; asked.button.click(); print(asked.text)",
        limit=40_000,
        SIZING_LEARNER_DIR=str(tmp_path),
        SIZING_RECORDED="0",
    )
    assert done.returncode == 0, done.stderr
    assert "The guess could not be kept" in done.stdout
    assert json.loads(path.read_text()) == entries


def test_rows_that_were_kept_survive_a_disk_that_fills(tmp_path):
    facts = {"points": "1 of 2"}
    few = Recording("batch", "cpu", [{"seconds": 1}] * 3, facts)
    path = recording.write(few, tmp_path / "batch.1.csv")
    done = run(
        "from pathlib import Path; from sizing.measuring.recording import Recording, write\n"
        "many = Recording('batch', 'cpu', [{'seconds': 1.2345}] * 20_000, {'points': '2 of 2'})\n"
        f"write(many, Path({str(path)!r}))",
        limit=50_000,
    )
    assert "OSError" in done.stderr and "batch.1.csv" in done.stderr
    assert recording.read(path).rows == few.rows


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_measured(
    monkeypatch, tmp_path
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="SIZING_LEARNER_DIR"):
        recording.new_file("batch", "cpu")


def test_what_is_written_has_the_usual_permissions(tmp_path):
    replace_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


# -- a kernel that is killed


WORLD = """
import os, time
from pathlib import Path
from sizing.measuring import workers
from sizing.measuring.device import cpu
from waiting import sleep
workers.launch(sleep, {{"folder": {folder!r}}}, 2, cpu())
"""
WAITING = """
import os, time
from pathlib import Path

def sleep(point, world):
    Path(point["folder"], f"rank{world.rank}").write_text(str(os.getpid()))
    time.sleep(600)
"""


def test_a_killed_kernel_leaves_no_process_behind(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    kernel = subprocess.Popen(
        [sys.executable, "-c", WORLD.format(folder=str(tmp_path))],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / f"rank{n}" for n in range(2)]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    family = psutil.Process(kernel.pid).children(recursive=True)
    ranks = {int(file.read_text()) for file in files}
    assert ranks <= {process.pid for process in family}
    kernel.kill()
    kernel.wait()
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != "zombie"], 60)


# -- updates


@pytest.fixture
def clone(tmp_path):
    """A published course of one lesson and one lab, and a learner's clone of it."""
    published, mine = tmp_path / "published", tmp_path / "mine"
    for folder in ("notebooks", "labs"):
        (published / folder).mkdir(parents=True)
        write(published / folder / "01-x.ipynb", "first")
    (published / ".gitignore").write_text("work/\n.learner/\n")
    git(published, "init", "--quiet", "--initial-branch=main")
    commit(published)
    git(tmp_path, "clone", "--quiet", str(published), str(mine))
    return published, mine


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "x")


def write(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_an_update_keeps_what_the_learner_wrote(clone):
    published, mine = clone
    bring_all(mine, mine / "work")
    lab = mine / "work/labs/01-x.ipynb"
    notebook = nbformat.read(lab, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("my answer", id="mine"))
    nbformat.write(notebook, lab)
    (mine / ".learner").mkdir()
    (mine / ".learner/predictions.json").write_text("[]")
    write(published / "labs/01-x.ipynb", "first", "second")
    commit(published)
    assert update.update(mine) == (True, "The course is up to date; 1 files changed.")
    bring_all(mine, mine / "work")
    assert sources(mine / "labs/01-x.ipynb") == ["first", "second"]
    assert set(sources(lab)) == {"first", "second", "my answer"}
    assert (mine / ".learner/predictions.json").read_text() == "[]"
    assert update.update(mine) == (True, "The course is up to date.")


def test_an_edited_lesson_of_the_course_stops_an_update_and_stays(clone):
    published, mine = clone
    write(mine / "labs/01-x.ipynb", "first", "typed into the course's own lab")
    write(published / "labs/01-x.ipynb", "first", "second")
    commit(published)
    good, words = update.update(mine)
    assert not good and "you edited files of the course itself (labs/01-x.ipynb)" in words
    assert sources(mine / "labs/01-x.ipynb") == ["first", "typed into the course's own lab"]


def test_a_lesson_that_was_deleted_or_a_network_that_is_away(clone, tmp_path):
    published, mine = clone
    (mine / "labs/01-x.ipynb").unlink()
    write(published / "notebooks/01-x.ipynb", "new")
    commit(published)
    assert update.update(mine)[0]
    assert not (mine / "labs/01-x.ipynb").exists()
    published.rename(tmp_path / "away")
    good, words = update.update(mine)
    assert not good and words.startswith("Nothing was changed")
    assert update.update(tmp_path) == (
        False,
        "This folder is no clone of the course. Unpack the new version beside it.",
    )
