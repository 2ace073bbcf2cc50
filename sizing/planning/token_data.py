"""Tokenised data on disk: its bytes, the sequences that it makes, what padding wastes."""

from __future__ import annotations

from dataclasses import dataclass

from ..units import positive


@dataclass(frozen=True)
class TokenFiles:
    """Bytes of tokenised text on disk, and the sequences that it makes.

    Attributes:
        tokens: of the text, with one that ends each document.
        width: bytes per token.
        data: bytes of the tokens.
        index: bytes of the index that says where documents begin.
        sequences: whole sequences when documents are packed end to end.
    """

    tokens: int
    width: int
    data: int
    index: int
    sequences: int

    @property
    def total(self) -> int:
        return self.data + self.index


def token_files(
    tokens: float, vocab: int, documents: float = 0, sequence: int = 2048, indexed: bool = True
) -> TokenFiles:
    """Bytes of a tokenised data set as Megatron's indexed files (or, without index, nanoGPT's).

    Two bytes per token for a vocabulary that fits 16 bits, else four. The index has 34 bytes of
    head and, for each document, its length (4), its place (8) and its number (8), and one number
    more. Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py, _IndexWriter; its unsigned
    16 bits hold vocabularies below 65 500 (DType.optimal_dtype).

    Args:
        tokens: of the text alone.
        vocab: size of the tokenizer's vocabulary.
        documents: how many there are; each adds one token that ends it.
        sequence: tokens in a training sequence, which takes one more for its targets.
        indexed: whether there is an index.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    positive("tokens", tokens)
    positive("vocab", vocab)
    if documents < 0:
        raise ValueError(f"documents: {documents!r} given; allowed: a number >= 0")
    total = round(tokens + documents)
    width = 2 if vocab < 65500 else 4
    index = 34 + 20 * round(documents) + 8 if indexed else 0
    return TokenFiles(total, width, total * width, index, (total - 1) // sequence)


def padding_share(lengths: list[int], sequence: int) -> float:
    """Share of a batch that is padding when each document has sequences of its own.

    Packing leaves at most the last sequence incomplete; one document per sequence fills the rest of
    its last one with padding.

    >>> padding_share([1024, 2048, 512], 2048)
    0.4166666666666667
    """
    used = sum(lengths)
    rows = sum(-(-length // sequence) for length in lengths)
    return 1 - used / (rows * sequence)
