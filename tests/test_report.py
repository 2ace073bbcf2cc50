"""The one-page report: what it says, and that browsers and PDF readers can read it."""

import re
import xml.etree.ElementTree as xml

import pytest

import sizing
from sizing.planning.page import bars


@pytest.fixture(scope="module")
def found():
    return sizing.plan("llama-3-8b", {"h100-sxm": 16}, tokens=1e11, sequence=4096)


@pytest.fixture(scope="module")
def page(found):
    return sizing.report(found)


def test_it_says_what_the_plan_says(found, page):
    best, text = found.best, page.html()
    low, high = best.cost.days_band
    assert f"{best.cost.days:,.1f} days ({low:,.1f} to {high:,.1f})" in text
    assert f"${best.cost.dollars:,.0f}" in text
    assert sizing.gb(best.memory) in text and best.fits in text
    assert best.layout in text
    assert "torchrun" in text and "#SBATCH" in text
    assert "Error budget" in text


def test_html_needs_nothing_from_elsewhere(page):
    text = page.html()
    assert not re.search(r"(src|href)=", text)
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 5
    for figure in figures:
        assert xml.fromstring(figure).get("aria-label")


def test_pdf_is_one_page_whose_parts_are_where_its_table_says(page):
    written = page.pdf()
    assert written.startswith(b"%PDF-1.4") and written.endswith(b"%%EOF\n")
    start = int(re.search(rb"startxref\n(\d+)\n", written).group(1))
    table = written[start:].splitlines()
    assert table[0] == b"xref"
    places = [int(line.split()[0]) for line in table[3 : 2 + int(table[1].split()[1])]]
    for number, place in enumerate(places, start=1):
        assert written[place:].startswith(b"%d 0 obj" % number)
    length = int(re.search(rb"/Length (\d+)", written).group(1))
    begin = written.index(b"stream\n") + len(b"stream\n")
    assert written[begin + length :].startswith(b"\nendstream")
    content = written[begin : begin + length].decode("cp1252")
    assert page.title in content
    heights = [float(y) for y in re.findall(r" ([\d.-]+) Td", content)]
    assert all(0 <= y <= 842 for y in heights)


def test_bars_are_as_long_as_their_values():
    figure = bars("two rows", {"a": {"x": 1.0, "y": 3.0}, "b": {"x": 2.0}}, "s", limit=4.0)
    drawn = [r for r in figure.rectangles if r[3] == 13]
    widths = [round(width) for _, _, width, _, _ in drawn]
    assert widths[1] == pytest.approx(3 * widths[0], abs=2)
    (line,) = figure.lines
    assert line[0] == pytest.approx(drawn[0][0] + 4 * drawn[0][2])


def test_of_a_candidate_and_saved(found, tmp_path):
    alone = sizing.report(found.runs[-1])
    assert len(alone.figures) == 4
    for name in ("plan.html", "plan.pdf"):
        assert alone.save(tmp_path / name).stat().st_size > 5000
    with pytest.raises(ValueError, match=r"allowed: a name in \.html or \.pdf"):
        alone.save(tmp_path / "plan.docx")


def test_what_has_no_report():
    none = sizing.plan("llama-3-70b", {"a100-sxm-40gb": 8}, tokens=1e11)
    with pytest.raises(ValueError, match="plan: one without a feasible run given"):
        sizing.report(none)
    with pytest.raises(ValueError, match="a candidate that does not fit"):
        sizing.report(none.rejected[0])
