"""tokens: from bytes of text to tokens to bytes on disk, for tokenizers that are built here.

The course's text is cut into bytes, into words, or by byte-pair encodings of several sizes that
are trained on it (Sennrich et al., arXiv:1508.07909). A larger vocabulary makes fewer tokens, each
of which takes two bytes on disk as long as it fits 16 bits, and costs rows of the embedding.
A tenth of the text, on which nothing is trained, is counted apart.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ..measuring.device import Device, cpu
from ..measuring.protocol import Experiment, Row
from ..planning.storage import token_files
from ..units import DATA

TEXT = DATA / "text" / "shakespeare.txt"
HIDDEN = 768  # width of the embedding that is counted: GPT-2's
MOST_WORDS = 30_000


def grid(
    device: Device, sizes: tuple[int, ...] = (512, 2048, 8192, 32_768), limit: int = 5_000_000
) -> list[Row]:
    """Bytes, words, and a byte-pair encoding of each size.

    Args:
        sizes: vocabularies of the byte-pair encodings.
        limit: bytes of the text.
    """
    kinds = [("bytes", 256), ("words", MOST_WORDS), *(("bpe", size) for size in sizes)]
    return [{"tokenizer": kind, "vocabulary": size, "limit": limit} for kind, size in kinds]


def measure(point: Row, device: Device) -> Row:
    """Tokens, bytes per token, and the file that they make."""
    text = TEXT.read_text(encoding="ascii")[: point["limit"]]
    cut = len(text) * 9 // 10
    known, unknown = text[:cut], text[cut:]
    encode, size = _TOKENIZERS[point["tokenizer"]](known, point["vocabulary"])
    numbers, held_out = encode(known), encode(unknown)
    total = len(numbers) + len(held_out)
    said = token_files(total, size, indexed=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        np.array(numbers + held_out, dtype=np.uint16 if said.width == 2 else np.uint32).tofile(path)
        written = path.stat().st_size
    return {
        "used": size,
        "text_bytes": len(text),
        "tokens": total,
        "bytes_per_token": len(text) / total,
        "held_out_bytes_per_token": len(unknown) / len(held_out),
        "disk_bytes": written,
        "formula_bytes": said.total,
        "embedding_parameters": size * HIDDEN,
    }


def _bytes(text: str, size: int):
    return lambda part: list(part.encode()), size


def _words(text: str, size: int):
    """Words and punctuation; whatever is rarer than the vocabulary allows is one unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    return lambda part: tokenizer.encode(part).ids, tokenizer.get_vocab_size()


def _bpe(text: str, size: int):
    """Byte-level, as GPT-2's: every text has an encoding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return lambda part: tokenizer.encode(part).ids, tokenizer.get_vocab_size()


_TOKENIZERS = {"bytes": _bytes, "words": _words, "bpe": _bpe}

EXPERIMENT = Experiment("tokens", grid, measure, cpu)
