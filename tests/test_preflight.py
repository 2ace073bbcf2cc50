"""`make check` in sound and in broken environments: the verdict, the remedy, the exit code."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from sizing.course import preflight
from sizing.course.preflight import FAIL, NOTE, OK, report
from sizing.measuring import recording

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = Path(preflight.__file__)


def run(python=sys.executable, script=SCRIPT, **environment):
    """The exit code and the text of a check, as `make check` gives them."""
    done = subprocess.run(
        [python, script], capture_output=True, text=True, env=os.environ | environment
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def line(text, subject):
    """The first line about a subject."""
    return next(line for line in text.splitlines() if line[7:].startswith(f"{subject}:"))


# -- whole machines


def test_this_machine_is_ready():
    code, text = run()
    assert code == 0, text
    assert text.splitlines()[-1] == "Ready."
    assert "[FAIL]" not in text and "[OK]   kernel" in text and "[OK]   torch" in text


def test_a_bare_python_is_told_what_to_install(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    code, text = run(tmp_path / "bare/bin/python", PYTHONPATH="")
    assert code == 1
    assert "[FAIL] packages: missing: torch, transformers, numpy" in text
    for subject in ("packages", "course", "kernel", "widgets", "torch"):
        found = text.splitlines()
        place = found.index(line(text, subject))
        assert found[place].startswith("[FAIL]") and found[place + 1].startswith("       -> ")
    assert text.splitlines()[-1].startswith("5 of ")


def test_packages_that_do_not_load_are_each_named(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    (tmp_path / "ipywidgets.py").write_text("import os; os.abort()")  # as a broken library does
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    code, text = run(PYTHONPATH=path)
    assert code == 1
    assert "torch does not load: OSError: libcudart.so.13: cannot open" in text
    assert "ipywidgets does not load: ended with exit code -6" in text
    assert line(text, "torch").startswith("[FAIL]") and line(text, "widgets").startswith("[FAIL]")
    assert line(text, "kernel").startswith("[OK]")


def test_recorded_mode_says_the_same_everywhere(monkeypatch, capsys):
    monkeypatch.setenv("SIZING_RECORDED", "1")
    assert preflight.main(["--unless-recorded"]) == 0
    assert capsys.readouterr().out.startswith("Recorded mode: this machine was not looked at.")


def test_it_reads_with_an_old_python_and_the_standard_library_alone():
    import ast

    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    assert modules <= sys.stdlib_module_names


# -- one check each


def test_an_old_python():
    found = preflight.check_python((3, 10, 9))
    assert found.verdict == FAIL and "PYTHON=python3.11" in found.remedy
    assert preflight.check_python((3, 11, 0)).verdict == OK


@pytest.mark.parametrize(
    ("here", "verdict", "words"),
    [
        ({"torch": "2.13.0+cpu", "pytest": "9.2.0"}, OK, "all 2"),
        ({"torch": "2.12.1", "pytest": "9.2.0"}, NOTE, "torch 2.12.1 (course: 2.13.0)"),
        ({"torch": "1.9.0", "pytest": "9.2.0"}, FAIL, "torch 1.9.0 (course: 2.13.0)"),
        ({"pytest": "9.2.0"}, FAIL, "missing: torch"),
        ({"torch": "2.13.0"}, NOTE, "needed by the tests alone: pytest"),
        ({"torch": "2.13.0", "pytest": "8.0.0"}, NOTE, "pytest 8.0.0"),
    ],
)
def test_packages(here, verdict, words):
    pinned = preflight.pins("torch==2.13.0\n# a word\npytest==9.2.0\n-e .\n")
    (found,) = preflight.check_packages(pinned, here.get)
    assert found.verdict == verdict and words in found.text


def test_learners_packages_are_pinned_and_data_is_named():
    pinned = preflight.pins((ROOT / "requirements.txt").read_text())
    assert set(preflight.LEARNERS) <= set(pinned)
    assert set(preflight.TABLES) <= {path.name for path in ROOT.glob("data/*.csv")}


@pytest.fixture
def course(tmp_path):
    """A copy of data/ and one lesson, to be damaged."""
    shutil.copytree(ROOT / "data", tmp_path / "data")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/00-start-here.ipynb", tmp_path / "notebooks")
    return tmp_path


def truncated(course):
    path = course / "data/models/gpt2.json"
    path.write_text(path.read_text()[:100])


def pointer(course):
    text = "version https://git-lfs.github.com/spec/v1\n"
    (course / "data/prices.csv").write_text(text)


def cut(course):
    path = course / "data/gpus.csv"
    lines = path.read_text().rstrip().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].split(",")[0]]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated, "data/models/gpt2.json: "),
        (pointer, "data/prices.csv: no rows"),
        (cut, "data/gpus.csv: a row is cut"),
        (lambda course: (course / "data/rates.csv").unlink(), "data/rates.csv is missing"),
        (lambda course: shutil.rmtree(course / "notebooks"), "no lesson"),
        (lambda course: shutil.rmtree(course / "data/models"), "models/llama-3.1-8b.json is miss"),
    ],
)
def test_damaged_data(course, damage, words):
    assert preflight.check_data(course).verdict == OK
    damage(course)
    found = preflight.check_data(course)
    assert found.verdict == FAIL and words in found.text and "git checkout" in found.remedy


def test_disk_and_memory():
    assert preflight.check_disk(5 * 10**8).text == "0.5 GB free, 1 GB needed"
    assert preflight.check_disk(5 * 10**8).verdict == FAIL
    assert preflight.check_disk(2 * 10**9).verdict == OK
    assert preflight.check_memory(2 * 10**9).verdict == NOTE
    assert preflight.check_memory(None).verdict == NOTE
    assert preflight.available_memory() > 10**8


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    found = preflight.check_folder(tmp_path / "file" / "learner")
    assert found.verdict == FAIL and "SIZING_LEARNER_DIR" in found.remedy


def test_the_learners_folder_is_the_one_that_the_course_uses(monkeypatch, tmp_path):
    for value in ("", str(tmp_path)):
        monkeypatch.setenv("SIZING_LEARNER_DIR", value)
        assert preflight.learner_folder() == recording.learner_directory().parent


GPU = {"version": "2.13.0", "cuda": "13.0", "sum": 64**3, "gpu": "NVIDIA H200"}


@pytest.mark.parametrize(
    ("facts", "smi", "verdict", "words"),
    [
        (GPU | {"free": 139e9, "total": 150e9}, "/x", OK, "NVIDIA H200: 139.0 of 150.0 GB free"),
        (GPU | {"free": 20e9, "total": 150e9}, "/x", NOTE, "20.0 of 150.0 GB free"),
        (GPU | {"free": 139e9, "total": 150e9, "sum": 1}, "/x", FAIL, "sums to 1"),
        ({"version": "2.13.0+cpu", "cuda": None, "sum": 64**3}, None, OK, "no CUDA GPU"),
        ({"version": "2.13.0+cpu", "cuda": None, "sum": 64**3}, "/x", NOTE, "does not see the GPU"),
    ],
)
def test_what_torch_says(facts, smi, verdict, words, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: smi)
    found = preflight.check_torch(lambda code: (True, json.dumps(facts)))
    assert found.verdict == verdict and words in found.text


@pytest.mark.parametrize(
    ("check", "answer", "words"),
    [
        (preflight.check_kernel, (True, "/usr"), "another Python: /usr"),
        (preflight.check_kernel, (False, "NoSuchKernel: python3"), "no kernel answers"),
        (preflight.check_widgets, (True, "False"), "lacks their extension"),
        (preflight.check_course, (True, "/x/sizing/__init__.py 124439808"), "`sizing` is that of"),
        (preflight.check_course, (True, "/x/sizing/__init__.py 7"), "GPT-2 has 7 parameters"),
        (preflight.check_torch, (False, "no answer in 120 s"), "no answer in 120 s"),
    ],
)
def test_what_a_process_answers(check, answer, words):
    found = check(ask=lambda code: answer)
    assert found.verdict == FAIL and words in found.text and found.remedy


def test_a_process_that_hangs_is_ended():
    assert preflight.ask("import time; time.sleep(60)", seconds=0.5) == (False, "no answer in 0 s")


def test_the_text_names_no_home(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    text = report([preflight.Finding(FAIL, "course", "is that of /home/ada/x", "Do.")])
    assert "is that of ~/x" in text and "ada" not in text and "1 of 1 failed" in text
