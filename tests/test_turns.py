"""A room's experiments take turns: real processes, one at a time, in order, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sizing.measuring import turns

PROGRAM = """
import sys, time
from pathlib import Path
from sizing.measuring import turns
turns.LOOK = 0.05
log, name = Path(sys.argv[1]), sys.argv[2]
with turns.turn(name):
    with log.open("a") as out:
        out.write(f"{name} begins\\n")
    time.sleep(float(sys.argv[3]))
    with log.open("a") as out:
        out.write(f"{name} ends\\n")
"""


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SIZING_QUEUE", str(tmp_path / "queue"))
    return tmp_path / "queue"


def start(tmp_path, name, seconds=0.2):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), name, str(seconds)],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def tickets(folder):
    return len(list(folder.glob("*.ticket")))


def test_one_at_a_time_in_order_and_the_line_is_said(folder, tmp_path):
    processes = []
    for number, name in enumerate(("zero", "batch", "ceilings")):
        processes.append(start(tmp_path, name, seconds=3 if number == 0 else 0))
        wait_for(lambda n=number: tickets(folder) >= n + 1 or not n)
        wait_for(lambda: (tmp_path / "log").exists())
    said = [process.communicate()[1] for process in processes]
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [f"{n} {w}" for n in ("zero", "batch", "ceilings") for w in ("begins", "ends")]
    assert said[0] == "" and "1 other is before you" in said[1]
    assert "2 others are before you at this machine; zero came" in said[2]
    assert tickets(folder) == 0


def test_a_killed_process_gives_its_turn_away(folder, tmp_path):
    first = start(tmp_path, "zero", seconds=600)
    wait_for(lambda: (tmp_path / "log").exists())
    second = start(tmp_path, "batch", seconds=0)
    wait_for(lambda: tickets(folder) == 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second.communicate(timeout=120)
    assert (tmp_path / "log").read_text().splitlines()[1:] == ["batch begins", "batch ends"]
    assert turns.waiting(folder) == []


def test_who_interrupts_the_wait_leaves_the_line(folder, monkeypatch):
    folder.mkdir()
    other = {"pid": os.getpid(), "experiment": "zero", "time": time.time()}
    other["started"] = turns.psutil.Process().create_time()
    (folder / "0-other.ticket").write_text(json.dumps(other))

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(turns.time, "sleep", interrupted)
    said = []
    with pytest.raises(KeyboardInterrupt), turns.turn("batch", said.append):
        pytest.fail("it had its turn")
    assert len(said) == 1 and "zero came" in said[0]
    assert [path.name for path in folder.glob("*.ticket")] == ["0-other.ticket"]


def test_without_a_folder_nobody_waits(monkeypatch, tmp_path):
    monkeypatch.delenv("SIZING_QUEUE", raising=False)
    with turns.turn("zero"), turns.turn("zero"):
        assert turns.queue_folder() is None


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIZING_QUEUE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match=r"SIZING_QUEUE: .*file given"), turns.turn("zero"):
        pass


def test_experiments_take_turns(folder, monkeypatch, tmp_path):
    from sizing import experiments

    monkeypatch.delenv("SIZING_RECORDED")
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    held = []
    original = turns.turn

    def watched(experiment):
        held.append(experiment)
        return original(experiment)

    monkeypatch.setattr(turns, "turn", watched)
    experiments.run("ceilings", sizes=(64,), copies=(2**16,))
    assert held == ["ceilings"] and Path(folder / "machine.lock").exists()
