"""The glossary: a term's first use links to it, and one letter means one thing."""

import re

import pytest
from hygiene import ROOT, markdown_cells, notebooks, read

PAGE = (ROOT / "docs" / "GLOSSARY.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
LINK = re.compile(r"\]\(\.\./docs/GLOSSARY\.md#([\w-]+)\)")
# How a term is written where that is not as its heading says, singular and plural.
WRITTEN = {
    "all-gather": r"all-gathers?",
    "collective": r"\b[Cc]ollectives?\b",
    "eager attention": r"eager\b",
    "FLOP": r"FLOPs?\b(?!/)",
    "GB, GiB": r"GiB",
    "expert": r"experts?\b(?! reader)",
    "grouped queries": r"[Gg]rouped.quer",
    "head": r"(?<!your )\bheads?\b(?! units)",
    "micro-batch": r"micro.batch",
    "optimizer": r"optimizers?\b|AdamW",
    "ring": r"\b[Rr]ings?\b",
    "token": r"\b[Tt]okens?\b",
    "recording": r"\brecordings?\b",
    "trace": r"\btraces?\b",
    "autocast": r"[Aa]utocast",
    "arithmetic intensity": r"\b[Ii]ntensity\b",
    "flash attention": r"[Ff]lash attention|\bflash\b",
    "residual": r"[Rr]esidual\b",
    "roofline": r"[Rr]oofline\b",
    "offload": r"\b[Oo]ffload",
    "strong scaling": r"[Ss]trong scaling",
    "rank": r"\b[Rr]anks\b|each rank",
    "latent attention": r"[Ll]atent.attention",
    "sdpa": r"\bsdpa\b|SDPA",
    "step": r"(?<![-\w])(?:training )?steps?\b(?! (?:is yours|of the))",
    "rotary positions": r"[Rr]otary",
    "tied head": r"\btied\b",
    "RMS norm": r"RMS",
    "dense peak": r"[Dd]ense",
    "compute-optimal": r"[Cc]ompute-optimal",
    "epoch": r"(?<!\.)\bepochs?\b",
    "goodput": r"(?<!\.)\b[Gg]oodput\b",
    "packing": r"\b[Pp]acking\b(?! a\s+knapsack)",
    "spot": r"\b[Ss]pot\b",
}
# Lessons whose first uses do not link to the glossary yet.
LATER: tuple[str, ...] = ()


def anchor(term: str) -> str:
    """As GitHub and JupyterLab make it of a heading."""
    return re.sub(r"[^\w\- ]", "", term.lower()).replace(" ", "-")


def first_use(term: str):
    """The lesson and the text of the first cell, of any kind, that uses a term."""
    written = re.compile(WRITTEN.get(term, rf"\b{re.escape(term)}\b"))
    for path in notebooks("notebooks"):
        for number, cell in enumerate(read(path).cells, 1):
            if cell.cell_type == "code" and not re.search(r"[\"'].*[\"']", cell.source):
                continue
            if written.search(cell.source):
                return path.name, number, cell.source
    return None


def test_terms_are_in_order_and_say_where():
    assert sorted(TERMS, key=lambda term: (term[0].isdigit(), term.lower())) == TERMS
    for entry in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        term, text = entry.split("\n", 1)
        assert re.search(r"\(\d\d\)\s*$", text), f"{term}: no lesson in brackets at its end"
        assert len(text.split()) <= 45, term


@pytest.mark.parametrize("term", TERMS)
def test_the_first_use_links_to_the_glossary(term):
    found = first_use(term)
    assert found, f"{term} is used nowhere"
    path, number, source = found
    if path[:2] in LATER:
        pytest.skip(f"first used in {path[:2]}")
    assert anchor(term) in LINK.findall(source), f"{path}, cell {number}: {source[:200]}"


def test_links_lead_to_terms():
    anchors = {anchor(term) for term in TERMS} | {"symbols", "terms"}
    for path in notebooks():
        for number, cell in markdown_cells(read(path)):
            assert set(LINK.findall(cell.source)) <= anchors, f"{path.name}, cell {number}"


def symbols(text: str) -> set[str]:
    """The single letters of the formulas in a text."""
    found = set()
    for formula in re.findall(r"\$([^$]+)\$", text):
        plain = re.sub(r"\\(?:text|mathrm)\{[^}]*\}", " ", formula)
        found |= set(re.findall(r"\\Psi|(?<![\\A-Za-z])[A-Za-z](?![a-z])", plain))
    return found


LETTERS = symbols("\n".join(re.findall(r"^\| (\$[^|]*) \|", PAGE, re.MULTILINE)))


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_a_letter_in_a_formula_is_in_the_table(path):
    if path.name[:2] in LATER:
        pytest.skip("its letters are not in the table yet")
    for number, cell in markdown_cells(read(path)):
        assert symbols(cell.source) - LETTERS == set(), f"cell {number}"
