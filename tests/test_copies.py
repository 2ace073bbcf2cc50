"""Working copies: made once, without answers, followed beside the learner's own work."""

import shutil
import subprocess
from copy import deepcopy

import nbformat
import nbformat.v4 as v4
import pytest
from hygiene import ROOT, dead_links, notebooks

from sizing.course import copies, lab
from sizing.course.copies import FOLLOWED, KEPT, MADE, UNREADABLE, WORK, bring, bring_all

CELLS = ("# A lesson", "predict('00.x', 'How many?')", "reveal('00.x', 62.58)", "The end.")


def lesson(*sources):
    """A small executed lesson: what begins with '#' or 'T' is text."""
    cells = []
    for source in sources or CELLS:
        if source[0] in "#T":
            cells.append(v4.new_markdown_cell(source))
        else:
            out = v4.new_output("stream", text="00.x: it is 62.58.\n")
            cells.append(v4.new_code_cell(source, outputs=[out], execution_count=1))
    return v4.new_notebook(cells=cells)


@pytest.fixture
def place(tmp_path):
    """A course's lesson and where its copy goes."""
    source = tmp_path / "course" / "notebooks" / "00-x.ipynb"
    source.parent.mkdir(parents=True)
    nbformat.write(lesson(), source)
    return source, tmp_path / "work" / "notebooks" / "00-x.ipynb"


def sources(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def work_in(path, change):
    """As JupyterLab saves it: ids stay with their cells."""
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


def test_a_copy_has_no_outputs_and_is_made_once(place):
    _, target = place
    assert bring(*place) == MADE
    assert sources(target) == list(CELLS)
    assert "62.58." not in target.read_text().replace("reveal('00.x', 62.58)", "")
    made = target.read_bytes()
    assert bring(*place) == KEPT and target.read_bytes() == made


def test_work_is_never_overwritten(place):
    _, target = place
    bring(*place)

    def work(cells):
        cells[1].outputs = [v4.new_output("stream", text="mine")]
        cells[2].source = "reveal('00.x', 7)"
        cells.insert(1, v4.new_code_cell("my = 'own'"))

    work_in(target, work)
    worked = target.read_bytes()
    assert bring(*place) == KEPT and target.read_bytes() == worked


def test_the_course_changes_beside_ones_own_edits(place):
    source, target = place
    bring(*place)

    def work(cells):
        cells[1].outputs = [v4.new_output("stream", text="mine")]
        cells[2].source = "reveal('00.x', 7)  # mine"
        cells.append(v4.new_markdown_cell("My note."))

    work_in(target, work)
    new = ("# A lesson, again", CELLS[1], "reveal('00.x', 62.6)", "The end.", "The sources.")
    nbformat.write(lesson(*new), source)
    assert bring(*place) == FOLLOWED
    assert sources(target) == [
        "# A lesson, again",
        CELLS[1],
        "reveal('00.x', 7)  # mine",
        "reveal('00.x', 62.6)",
        "The end.",
        "My note.",
        "The sources.",
    ]
    assert nbformat.read(target, as_version=4).cells[1].outputs[0].text == "mine"
    assert bring(*place) == KEPT


def test_what_was_deleted_stays_so_until_it_changes(place):
    source, target = place
    bring(*place)

    def delete(cells):
        del cells[1:3]

    work_in(target, delete)
    nbformat.write(lesson(CELLS[0], CELLS[1], "reveal('00.x', 62.6)", "The end!"), source)
    assert bring(*place) == FOLLOWED
    assert sources(target) == [CELLS[0], "reveal('00.x', 62.6)", "The end!"]


def test_an_edit_survives_every_later_version_and_ids_stay_different(place):
    source, target = place
    bring(*place)

    def work(cells):
        cells[2].source = "reveal('00.x', 7)  # mine"

    work_in(target, work)
    for third in ("reveal('00.x', 62.6)", CELLS[2], "reveal('00.x', 62.7)", CELLS[2]):
        nbformat.write(lesson(*CELLS[:2], third, CELLS[3]), source)
        assert bring(*place) == FOLLOWED
        assert sources(target).count("reveal('00.x', 7)  # mine") == 1
        assert sources(target).count(third) == 1
        ids = [cell.id for cell in nbformat.read(target, as_version=4).cells]
        assert len(set(ids)) == len(ids) == 5


def test_a_repeated_cell_is_not_an_edit(place):
    source, target = place
    nbformat.write(lesson("T", "check(1)", "T", "check(1)"), source)
    bring(*place)
    nbformat.write(lesson("T", "check(1)", "T", "check(2)"), source)
    assert bring(*place) == FOLLOWED
    assert sources(target) == ["T", "check(1)", "T", "check(2)"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", b'{"cells": 3}'])
def test_a_damaged_copy_is_left_alone(place, damage):
    _, target = place
    target.parent.mkdir(parents=True)
    target.write_bytes(damage)
    assert bring(*place) == UNREADABLE
    assert target.read_bytes() == damage


def test_the_command_line_says_what_it_did(place, tmp_path, monkeypatch, capsys):
    source, target = place
    monkeypatch.setattr(copies, "COURSE", source.parent.parent)
    monkeypatch.setattr(copies.bring_all, "__defaults__", (source.parent.parent, copies.WORK))
    work = str(target.parent.parent)
    assert copies.main([work]) == 0
    assert capsys.readouterr().out == "work/: made: notebooks/00-x.ipynb\n"
    assert copies.main([work]) == 0
    assert capsys.readouterr().out == ""
    target.write_text("{")
    assert copies.main([work]) == 1
    assert "was left alone" in capsys.readouterr().err


# The course's own


@pytest.fixture(scope="module")
def working():
    """A learner's folder beside the course's files, as `make lab` makes it."""
    folder = ROOT / "build" / "copies-test"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder, bring_all(work=folder)
    shutil.rmtree(folder, ignore_errors=True)


def test_every_lesson_and_lab_is_copied_without_outputs_and_solutions(working):
    folder, done = working
    originals = {f"{p.parent.name}/{p.name}" for p in notebooks("notebooks", "labs")}
    assert set(done) == originals and set(done.values()) == {MADE}
    for name in done:
        copy = nbformat.read(folder / name, as_version=4)
        assert not any(cell.get("outputs") for cell in copy.cells), name
        assert [c.source for c in copy.cells if c.cell_type == "code"] == [
            c.source
            for c in nbformat.read(ROOT / name, as_version=4).cells
            if c.cell_type == "code"
        ]
    assert not (folder / "solutions").exists()


def test_links_of_the_copies_lead_somewhere(working):
    folder, done = working
    for name in done:
        assert dead_links(nbformat.read(folder / name, as_version=4), (folder / name).parent) == []


def test_tags_and_the_order_of_cells_are_copied(working):
    folder, done = working
    for name in done:
        copy, original = (
            deepcopy(nbformat.read(base / name, as_version=4)) for base in (folder, ROOT)
        )
        assert [c.metadata.get("tags") for c in copy.cells] == [
            c.metadata.get("tags") for c in original.cells
        ]


def test_git_ignores_the_folder_and_make_opens_it():
    assert WORK == ROOT / "work"
    ignored = subprocess.run(["git", "check-ignore", "-q", "work/notebooks/x.ipynb"], cwd=ROOT)
    assert ignored.returncode in (0, 128)  # 128: not a git checkout
    if ignored.returncode == 128:
        assert "work/" in (ROOT / ".gitignore").read_text().splitlines()
    recipe = (ROOT / "Makefile").read_text().split("\nlab:")[1].split("\n\n")[0]
    assert "sizing.course.lab" in recipe and lab.FIRST == "work/notebooks/00-start-here.ipynb"
