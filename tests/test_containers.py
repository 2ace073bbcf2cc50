"""Dockerfile, Binder, dev container, Kubernetes: what can be held without any of them.

`make install-test` runs the same steps for real.
"""

import json
import os
import re
import shutil
import subprocess

import install
import newest
import notebook_runs
import pytest
import yaml
from test_workshop import ROOT, module

HUB = ROOT / "workshop" / "hub"


@pytest.fixture(scope="module")
def check_values():
    return module("hub/check_values")


def test_the_dockerfile_copies_what_there_is_and_runs_as_a_learner():
    found = install.instructions()
    assert {kind for kind, _ in found} <= {
        "FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "CMD"
    }  # fmt: skip
    commands = " ".join(words for kind, words in found if kind == "RUN")
    files = re.findall(r"-r (\S+)|cp (\S+) ", commands)
    assert files and all((ROOT / (a or b)).exists() for a, b in files)
    assert [words for kind, words in found if kind == "USER"] == ["jovyan"]
    command = json.loads(found[-1][1])
    assert found[-1][0] == "CMD" and command[:2] == ["sh", "-c"]
    done = subprocess.run(["sh", "-n", "-c", command[2]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (torch,) = [words for kind, words in found if kind == "ARG"]
    assert torch.startswith("TORCH_FROM=")


def test_the_image_leaves_out_what_is_built():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".learner", "work", "build"} <= set(ignored)


def test_the_dev_container_names_steps_that_work():
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert {"name", "image", "onCreateCommand", "postCreateCommand"} <= set(told)
    target = told["onCreateCommand"].split()[1]
    makefile = (ROOT / "Makefile").read_text()
    assert "READY := $(VENV)/.ready" in makefile and target == ".venv/.ready"
    assert "$(TORCH_FROM)" in makefile


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binder_s_scripts_parse_and_are_executable(name):
    path = ROOT / "binder" / name
    assert os.access(path, os.X_OK)
    if shutil.which("bash"):
        done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    files = re.findall(r"-r (\S+)|cp (\S+) ", path.read_text())
    assert all((ROOT / (a or b)).exists() for a, b in files)
    version = (ROOT / "binder" / "runtime.txt").read_text()
    assert re.fullmatch(r"python-3\.1[123]\n", version)


def test_values_for_kubernetes_are_accepted_and_a_slip_is_not(check_values):
    schema = yaml.safe_load((HUB / "values.schema.yaml").read_text())
    text = (HUB / "zero-to-jupyterhub.yaml").read_text()
    assert check_values.errors(schema, yaml.safe_load(text)) == []
    for right, wrong, place in (
        ("defaultUrl", "defaultURL", "singleuser"),
        ("limit: 2", "limit: two", "singleuser.cpu.limit"),
        ("timeout: 5400", 'timeout: "5400"', "cull.timeout"),
        ("    name: registry", "    image: registry", "singleuser.image"),
    ):
        assert right in text
        slips = check_values.errors(schema, yaml.safe_load(text.replace(right, wrong)))
        assert any(slip.startswith(place) for slip in slips)


def test_every_way_of_the_readme_has_its_steps():
    for way in install.WAYS:
        assert install.steps(way), way
    assert install.steps("pip")[-1].endswith(install.OPENS)
    assert install.steps("uv")[-1].endswith(install.OPENS)
    pins = (ROOT / "requirements.txt").read_text()
    for package in re.findall(r'"(\w+==[\d.]+)"', "\n".join(install.steps("colab"))):
        assert package in pins  # Colab's cell names the version that is tested


def test_what_lab_opens(monkeypatch, tmp_path):
    from sizing.course import copies, lab

    monkeypatch.setattr(copies, "COURSE", tmp_path)
    given = lab.arguments(["--no-browser"])
    assert given[-1] == str(tmp_path / "work/notebooks/00-start-here.ipynb")
    assert "--no-browser" in given and not any("ip=" in word for word in given)


def test_versions_are_replaced_and_the_rest_stays():
    lines = newest.replaced("# x\ntorch==2.13.0\nnumpy==2.4.6\n-e .\n", ("torch", "numpy==2.0"))
    assert lines == ["torch", "numpy==2.0"]
    assert newest.summary("F.\n1 failed, 20 passed, 3 skipped in 4.0s\n") == (
        "1 failed, 0 error, 20 passed"
    )


def test_orders_in_which_cells_are_run():
    orders = notebook_runs.passes(6, "01")
    assert orders["first"] == orders["second"] == list(range(6))
    assert sorted(orders["shuffled"]) == list(range(1, 6)) != orders["shuffled"]
    assert orders == notebook_runs.passes(6, "01")


def test_a_cell_that_needs_a_later_one_is_found(tmp_path):
    import nbformat.v4 as v4
    from nbformat import write

    cells = ["import math", "try:\n    print(x)\nexcept NameError:\n    print('none')", "x = 1"]
    book = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "01-x.ipynb"
    write(book, path)
    wrong, _ = notebook_runs.run(path, "again", tmp_path)
    assert wrong[0] == "second: cell 1 said 'none', and now '1'"
