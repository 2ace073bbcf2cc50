"""One page of text and figures as a PDF, without a library."""

from __future__ import annotations

from collections.abc import Sequence

from .figures import Figure

Pairs = Sequence[tuple[str, str]]
_A4 = (595, 842)  # points
_MARGIN = 40


def pdf_bytes(
    title: str, facts: Pairs, reason: str, figures: Sequence[Figure], commands: Pairs
) -> bytes:
    """A page of text and figures: PDF 1.4 with one of its standard fonts (ISO 32000-1, 9.6.2.2)."""
    drawn: list[str] = []
    y = _A4[1] - _MARGIN
    y = _write(drawn, title, 15, y) - 4
    for name, value in facts:
        _put(drawn, _MARGIN, y, 8.5, name)
        _put(drawn, _MARGIN + 70, y, 8.5, value)
        y -= 12
    for line in _wrapped(reason, 118):
        y = _write(drawn, line, 8.5, y)
    y -= 4
    left, tallest = True, 0.0
    scale = (_A4[0] - 2 * _MARGIN - 15) / 2 / 360
    for figure in figures:
        x = _MARGIN if left else _MARGIN + 360 * scale + 15
        _draw(drawn, figure, x, y, scale)
        tallest = max(tallest, figure.height * scale)
        if not left:
            y, tallest = y - tallest - 10, 0.0
        left = not left
    y -= tallest + 12
    for tool, text in commands:
        for line in (f"{tool}:", *text.splitlines()):
            for part in _wrapped(line, 118):
                if y > _MARGIN:
                    y = _write(drawn, part, 7, y)
    return _document("\n".join(drawn))


def _write(drawn: list[str], text: str, size: float, y: float) -> float:
    _put(drawn, _MARGIN, y, size, text)
    return y - 1.35 * size


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _put(drawn: list[str], x: float, y: float, size: float, text: str) -> None:
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    drawn.append(f"0 g BT /F1 {size:g} Tf {x:.1f} {y:.1f} Td ({escaped}) Tj ET")


def _colour(code: str) -> str:
    return " ".join(f"{int(code[i : i + 2], 16) / 255:.3f}" for i in (1, 3, 5))


def _draw(drawn: list[str], figure: Figure, left: float, top: float, scale: float) -> None:
    def x(value: float) -> float:
        return left + value * scale

    def y(value: float) -> float:
        return top - value * scale

    for a, b, w, h, colour in figure.rectangles:
        drawn.append(
            f"{_colour(colour)} rg {x(a):.1f} {y(b + h):.1f} {w * scale:.1f} {h * scale:.1f} re f"
        )
    for a, b, c, d, colour in figure.lines:
        drawn.append(f"{_colour(colour)} RG {x(a):.1f} {y(b):.1f} m {x(c):.1f} {y(d):.1f} l S")
    for a, b, r, colour in figure.dots:
        side = 1.8 * r * scale
        corner = f"{x(a) - side / 2:.1f} {y(b) - side / 2:.1f}"
        drawn.append(f"{_colour(colour)} rg {corner} {side:.1f} {side:.1f} re f")
    for a, b, size, text, anchor in figure.texts:
        # Helvetica's letters are about half as wide as high.
        shift = {"start": 0.0, "middle": 0.25, "end": 0.5}[anchor] * size * len(text)
        _put(drawn, x(a - shift), y(b), size * scale, text)


def _document(content: str) -> bytes:
    stream = content.encode("cp1252", errors="replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>" % _A4,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    written, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return written + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n"
        b"%%%%EOF\n" % (len(objects) + 1, table, len(objects) + 1, len(written))
    )
