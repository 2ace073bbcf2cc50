"""What is pasted is data: pickles, depth, sizes and names that are meant to hurt get words.

Nothing that a learner types or pastes reaches a shell, an interpreter or a network.
"""

import ast
import json
import os
import pickle
import re
from pathlib import Path

import nbformat
import psutil
import pytest

from sizing import Model
from sizing.architecture import reading
from sizing.calculators import ParameterCalculator
from sizing.measuring import device, workers

ROOT = Path(__file__).resolve().parents[1]
SIZES = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PLAIN = json.dumps({"model_type": "llama", **SIZES})
DEEP = 100_000
LONG = 50_000_000


class Attack:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def width(text: str) -> str:
    """The config with another hidden size, as it is spelled."""
    return PLAIN.replace("64", text)


def more(text: str) -> str:
    """The config with one more field, as it is spelled."""
    return f"{PLAIN[:-1]}, {text}}}"


REFUSED = {
    "a list in a list in a list": ("[" * DEEP + "]" * DEEP, "nests too deeply"),
    "an object in an object": ('{"a":' * DEEP + "1" + "}" * DEEP, "nests too deeply"),
    "depth in a field": (more('"x": ' + "[" * DEEP + "]" * DEEP), "nests too deeply"),
    "brackets that never close": ("[" * DEEP, "nests too deeply"),
    "1e400": (width("1e400"), "hidden_size: inf given; allowed: a whole number"),
    "NaN": (width("NaN"), "hidden_size: nan given; allowed: a whole number"),
    "-Infinity": (width("-Infinity"), "hidden_size: -inf given; allowed: a whole number"),
    "4,000 digits": (width("9" * 4000), "hidden_size: 999.*allowed: a whole number"),
    "5,000 digits": (width("9" * 5000), "a number with too many digits"),
    "true": (width("true"), "hidden_size: True given; allowed: a whole number"),
    "a billion layers": (PLAIN.replace(": 2,", ": 1000000000,"), "num_hidden_layers: .*allowed"),
    "a field twice": (more('"hidden_size": 128'), "hidden_size: given twice"),
    "a type twice": (more('"model_type": "gpt2"'), "model_type: given twice"),
    "a field twice inside": (more('"rope_scaling": {"a": 1, "a": 2}'), "a: given twice"),
    "50 MB of text": (more(f'"x": "{"a" * LONG}"'), "a length of 50,000,1.. ?; allowed"),
    "50 MB that are no JSON": ("a" * LONG, "a length of 50,000,000; allowed"),
    "a type of a megabyte": (PLAIN.replace("llama", "a" * 10**6), "unknown architecture 'aaa"),
    "a name of 999 letters": ("x" * 999, "no preset and no file"),
    "a folder of a stranger": ("~nobody-of-that-name/config.json", "no preset and no file"),
    "no file but a device": ("/dev/zero", "no preset and no file"),
    "a file that is no config": ("/etc/passwd", "passwd is not JSON"),
    "a null byte": ("a\x00b", "no preset and no file"),
    "Python": ("__import__('os').abort()", "no preset and no file"),
    "YAML": ("!!python/object/apply:os.abort []", "no preset and no file"),
    "an address": ("https://example.org/config.json", "nothing is fetched"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_meant_to_hurt_gets_words(what):
    text, words = REFUSED[what]
    with pytest.raises(ValueError, match=words) as raised:
        Model(text)
    assert len(str(raised.value)) < 1500


@pytest.fixture(scope="module")
def calculator():
    return ParameterCalculator(model="gpt2")


@pytest.mark.parametrize("what", [what for what in REFUSED if "50 MB" not in what])
def test_the_calculator_says_the_same_and_keeps_its_picture(calculator, what):
    picture = calculator._picture.value
    calculator.set(config=REFUSED[what][0])
    assert re.search(REFUSED[what][1], calculator.error)
    assert calculator._picture.value == picture


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_not_loaded(protocol, tmp_path):
    made, path = tmp_path / "made", tmp_path / "config.json"
    path.write_bytes(pickle.dumps(Attack(made), protocol))
    with pytest.raises(ValueError, match=r"is not JSON|is not text"):
        Model(path)
    with pytest.raises(ValueError, match="source:"):
        Model(path.read_bytes().decode("latin1"))
    assert not made.exists()
    pickle.loads(path.read_bytes())  # the test's own attack does work
    assert made.exists()


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file: a terabyte that takes no disk
    with pytest.raises(ValueError, match="a length of 1,000,000,000,000; allowed"):
        Model(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(PLAIN)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"config\.json cannot be read: Permission denied"):
        Model(path)


def test_the_longest_config_of_the_course_is_far_from_the_limit():
    longest = max(path.stat().st_size for path in reading.PRESETS.glob("*.json"))
    assert longest < reading.LONGEST / 100


def test_markup_in_a_config_is_shown_as_text(calculator):
    attack = "<img src=x onerror=alert(1)>"
    for text in (
        PLAIN.replace("llama", attack),
        width(json.dumps(attack)),
        more(f'"architectures": ["{attack}"]'),
        more(f'"hidden_act": "{attack}"'),
    ):
        calculator.set(config=text)
        parts = (calculator._headline.value, calculator._changed.value, calculator._details.value)
        html = [*parts, calculator._repr_mimebundle_()["text/html"]]
        assert not any(attack in part for part in html)


def test_code_that_a_config_names_is_never_fetched():
    text = more('"auto_map": {"AutoConfig": "stranger--x.Y", "AutoModelForCausalLM": "x.Z"}')
    assert Model(text).parameters.total == Model(PLAIN).parameters.total


# -- no shell, no interpreter, no network


def calls(source: str) -> set[str]:
    """Names of all that a text calls, those with a shell marked."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
            found.add(f"{name}(shell)" if shell else name)
    return found


NEVER = re.compile(
    r"eval|exec|compile|os\.(?:system|popen|exec\w*|spawn\w*)|subprocess\.get\w*output"
    r"|(?:pickle|marshal|shelve|dill)\.loads?|yaml\.(?:unsafe_)?load|.*\(shell\)"
    r"|urllib\..*|requests\..*|urlopen"
)


def forbidden(source: str) -> list[str]:
    return sorted(name for name in calls(source) if NEVER.fullmatch(name))


def test_the_library_calls_no_shell_and_no_interpreter():
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("sizing/**/*.py")}
    assert len(texts) > 150
    assert {path.name: found for path, text in texts.items() if (found := forbidden(text))} == {}


def test_what_never_may_be_called_is_found():
    source = "os.system('x'); eval('1'); subprocess.run(words, shell=True); subprocess.run(words)"
    assert forbidden(source) == ["eval", "os.system", "subprocess.run(shell)"]


@pytest.mark.parametrize("folder", ["notebooks", "solutions", "labs", "workshop"])
def test_notebooks_run_no_shell(folder):
    """Nor magics: what stands in a cell is Python."""
    books = sorted((ROOT / folder).glob("*.ipynb"))
    cells = [cell for path in books for cell in nbformat.read(path, as_version=4).cells]
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(sources) >= 6
    assert [found for source in sources if (found := forbidden(source))] == []


def _listening(point, world):
    return {"hosts": sorted(addresses(os.getpid()))}


def addresses(pid: int) -> set[str]:
    """Addresses on which a process listens for TCP."""
    found = psutil.Process(pid).net_connections("tcp")
    return {c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}


def test_the_ranks_of_an_experiment_listen_on_this_machine_alone():
    rows = workers.launch(_listening, {}, 2, device.cpu())
    hosts = {host for row in rows for host in row["hosts"]}
    assert hosts and hosts <= {"127.0.0.1", "::1"}
