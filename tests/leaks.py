"""Answers that stand before their question is answered: the numbers that `reveal` reveals."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import floor, log10

from hygiene import shown
from nbformat import NotebookNode

REVEALED = re.compile(r"^(\d\d\.[\w-]+): it is ([\d,]*\.?\d+(?:e[+-]?\d+)?)\b", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d, ]*\d)?(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])|(?<![\w.])\.\d+")
PERCENT = 100


@dataclass(frozen=True)
class Leak:
    """A revealed number (to two digits) in an earlier cell: where, and the words around it."""

    name: str
    cell: int
    number: str
    context: str


def two_digits(value: float) -> float:
    """A number rounded to two significant digits."""
    return round(value, 1 - floor(log10(abs(value)))) if value else 0.0


def numbers(text: str) -> Iterator[tuple[str, float, str]]:
    """The numbers in a text: as written, their value, and the words around them."""
    for found in NUMBER.finditer(text):
        written = found[0].strip()
        plain = re.sub(r"[, ](?=\d{3}(?!\d))", "", written)
        for part in re.split(r"[, ]+", plain):
            digits = part.lower().split("e")[0].replace(".", "").strip("0")
            if part and part != "." and len(digits) >= 2:  # a single digit says too little
                around = text[max(0, found.start() - 30) : found.end() + 20]
                yield part, float(part), " ".join(around.split())


def reveals(notebook: NotebookNode) -> Iterator[tuple[int, str, float]]:
    """Place, name and value of each number that the stored notebook reveals."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            for name, value in REVEALED.findall(output.get("text", "")):
                yield place, name, float(value.replace(",", ""))


def leaks(notebook: NotebookNode) -> list[Leak]:
    """Every revealed number that occurs, to two digits, in an earlier text, code or output.

    As it is, and as the fraction of a percentage. Numbers of one digit are passed over.
    """
    found = []
    for place, name, value in reveals(notebook):
        looks = {two_digits(value), two_digits(value / PERCENT)}
        for earlier, cell in enumerate(notebook.cells[:place]):
            text = "\n".join([cell.source, *map(shown, cell.get("outputs", []))])
            text = re.sub(r"<[^>]*>", " ", text)
            for written, number, context in numbers(text):
                if two_digits(number) in looks:
                    found.append(Leak(name, earlier, written, context))
    return found
