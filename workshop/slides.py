"""`make slides`: a lesson as slides in one HTML file that needs no network and no server.

    python workshop/slides.py build/workshop/slides notebooks/01-*.ipynb

A slide for the title, each section, each prediction, each figure with its sentence, each step of a
drawing, and the table
to take away. reveal.js and MathJax come from the packages of requirements-slides.txt and are
written into the file, pictures too.
"""

import html
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
from nbconvert.filters import markdown2html

import sizing
from sizing.course import drawings

ROOT = Path(__file__).resolve().parents[1]
_PREDICT = re.compile(r"\bpredict\(")
_STYLE = """
.reveal { font-size: 32px; }
.reveal section { text-align: left; }
.reveal h1, .reveal h2 { text-transform: none; font-size: 1.35em; }
.reveal section > svg { width: 100%; height: auto; max-height: 62vh; }
.reveal img { max-height: 72vh; max-width: 100%; }
.reveal table { font-size: 0.75em; }
.reveal .ask { border-left: 8px solid #0072b2; padding-left: 0.6em; font-size: 1.3em; }
"""
_MATH = "window.MathJax = {tex: {inlineMath: [['$', '$']]}};"
_START = "Reveal.initialize({hash: true, width: 1200, height: 760, margin: 0.06, center: false});"


def package_file(package: str, name: str) -> str:
    """A text file of an installed package; the file may lie deep inside."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(
            f"{package} is missing: pip install -r workshop/requirements-slides.txt"
        )
    folder = Path(spec.submodule_search_locations[0])
    return (folder / name).read_text(encoding="utf-8")


def slides(notebook) -> list[str]:
    """The slides of a lesson, as HTML: what an instructor shows, without code and its answers."""
    found = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found += [_question(cell)] if _PREDICT.search(cell.source) else []
            found += [_figure(out, _sentence(notebook, place)) for out in _pictures(cell)]
            found += _drawing(cell)
            continue
        source = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.S)
        if place == 0:
            found.append(_markdown(source))
            continue
        for part in re.split(r"(?=^## )", source, flags=re.M):
            if part.startswith("## "):
                found.append(_markdown(_short(part)))
    return found


def _short(part: str) -> str:
    """A section's heading with its first paragraph, its list or its table."""
    head, _, rest = part.partition("\n")
    blocks = [block for block in re.split(r"\n\s*\n", rest.strip()) if block.strip()]
    tables = [block for block in blocks if block.lstrip().startswith(("|", "1.", "- "))]
    return "\n\n".join([head, *(blocks[:1] if not tables else []), *tables[:1]])


def _markdown(source: str) -> str:
    return re.sub(r"<a class=\"anchor-link\".*?</a>", "", markdown2html(source))


def _question(cell) -> str:
    """The question of a prediction, joined from its string literals."""
    call = cell.source[_PREDICT.search(cell.source).start() :]
    texts = re.findall(r"\"((?:[^\"\\]|\\.)*)\"", call)
    unit = re.search(r"unit=\"([^\"]*)\"", call)
    words = "".join(text for text in texts[1:] if not unit or text != unit[1])
    answer_in = f" <i>(in {html.escape(unit[1])})</i>" if unit else ""
    return f"<h2>Predict</h2><p class='ask'>{html.escape(words)}{answer_in}</p>"


def _pictures(cell) -> list[str]:
    return [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]


def _drawing(cell) -> list[str]:
    """A slide per step of a drawing, made anew: a cell stores only the step that it shows."""
    if not cell.source.startswith("drawings."):
        return []
    known = {"drawings": drawings, "sizing": sizing, "Run": sizing.Run}
    drawing = eval(cell.source, known)  # one call, in the course's own lesson
    title = f"<h2>{html.escape(drawing.title)}</h2>"
    return [f"{title}{step.svg}<p>{html.escape(step.words)}</p>" for step in drawing.steps]


def _sentence(notebook, place: int) -> str:
    """The sentence under a figure: the text in italics that follows it."""
    following = notebook.cells[place + 1 : place + 2]
    source = following[0].source if following and following[0].cell_type == "markdown" else ""
    found = re.match(r"\*(.+?)\*(?:\n\n|$)", source, re.S)
    return found[1] if found else ""


def _figure(picture: str, sentence: str) -> str:
    data = "".join(picture.split())
    alternative = html.escape(sentence or "figure", quote=True)
    return (
        f"<img alt='{alternative}' src='data:image/png;base64,{data}'>"
        f"<p>{markdown2html(sentence) if sentence else ''}</p>"
    )


def page(notebook) -> str:
    """The whole file."""
    reveal = "_static/revealjs/dist"
    name = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    styles = [package_file("sphinx_revealjs", f"{reveal}/{n}.css") for n in ("reset", "reveal")]
    theme = package_file("sphinx_revealjs", f"{reveal}/theme/white.css")
    styles += [re.sub(r"@import url\([^)]*\);?", "", theme), _STYLE]  # its fonts lie elsewhere
    code = package_file("sphinx_revealjs", f"{reveal}/reveal.js")
    math = package_file("mathjax", "static/mathjax/es5/tex-svg-full.js")
    scripts = [code, _MATH, math, _START]
    sections = "".join(f"<section>{slide}</section>" for slide in slides(notebook))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(name)}"
        f"</title><style>{''.join(styles)}</style></head><body><div class='reveal'>"
        f"<div class='slides'>{sections}</div></div>"
        + "".join(f"<script>{_inline(script)}</script>" for script in scripts)
        + "</body></html>"
    )


def _inline(script: str) -> str:
    """A script that its own text cannot end."""
    return script.replace("</script", "<\\/script")


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, arguments[1:]):
        target = folder / f"{path.stem}.html"
        target.write_text(page(nbformat.read(path, as_version=4)), encoding="utf-8")
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
