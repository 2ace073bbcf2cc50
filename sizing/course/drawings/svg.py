"""Shapes as SVG text: an opaque light panel, so that it is legible on a dark page."""

from html import escape

from ...palette import BLACK

INK, DIM, GRID = BLACK, "#8a8a8a", "#d0d0d0"


class Panel:
    """A white panel of ``width`` x ``height`` units that shapes are added to, in order."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(self, x, y, w, h, fill="#ffffff", edge=INK, dash="", thick=1.0, round_=4) -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{round_:g}" '
            f'fill="{fill}" stroke="{edge}" stroke-width="{thick:g}"{dashed}/>'
        )

    def text(self, x, y, words, size=12, fill=INK, anchor="middle", bold=False) -> None:
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" '
            f'text-anchor="{anchor}"{weight}>{escape(str(words))}</text>'
        )

    def line(self, *points, edge=INK, thick=1.4, arrow=False, dash="") -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        head = ' marker-end="url(#tip)"' if arrow else ""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{edge}" stroke-width="{thick:g}"'
            f"{head}{dashed}/>"
        )

    def plus(self, x, y, r=9) -> None:
        self.parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="#ffffff" stroke="{INK}"/>'
        )
        self.text(x, y + 5, "+", size=16)

    def svg(self, title: str) -> str:
        """The picture; ``title`` is its text alternative."""
        tip = (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" '
            'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" style="max-width:100%;height:auto" role="img" '
            f'font-family="DejaVu Sans, Arial, sans-serif">'
            f"<title>{escape(title)}</title>{tip}"
            f'<rect width="{self.width:g}" height="{self.height:g}" fill="#ffffff"/>'
            f"{''.join(self.parts)}</svg>"
        )


def on(colour: str) -> str:
    """Black or white, whichever can be read better on a colour (WCAG's relative luminance)."""
    return max(("#ffffff", "#000000"), key=lambda ink: contrast(ink, colour))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours ``#rrggbb``, 1 to 21 (WCAG 2.2, 1.4.3)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
