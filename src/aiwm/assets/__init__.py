"""What ships inside the product: a small real classifier of handwritten digits with rows to ask it about, and what
makes a tiny language model.

The rows are 8 x 8 images with 17 shades; `digits/SOURCE.md` says where they come from. Standard library only.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

_DIGITS = Path(__file__).parent / "digits"

MODEL = _DIGITS / "model"
"""A Triton model repository's entry: `config.pbtxt` and `1/` with `model.py` and `weights.npz`."""
MODEL_FILES = ("config.pbtxt", "1/model.py", "1/weights.npz")
"""What belongs to the model, relative to `MODEL`."""
TRAINING = _DIGITS / "train.csv"
"""The rows the classifier was trained on."""
HELDOUT = _DIGITS / "heldout.csv"
"""Rows that the training never read."""
BRIGHTEST = 16
TINY_LLM = Path(__file__).parent / "tiny_llm" / "make.py"
"""Makes a tiny Llama and an adapter for it in the folder it is given; run by the Python that has vLLM."""


@dataclass(frozen=True, slots=True)
class Digit:
    """One handwritten digit: 64 pixels, row by row, each from 0 to `BRIGHTEST`, and which digit it is."""

    pixels: tuple[int, ...]
    label: int


def digits(path: Path = HELDOUT) -> list[Digit]:
    """The rows of `HELDOUT` or `TRAINING`, in the order of the file."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [Digit(tuple(map(int, row[:-1])), int(row[-1])) for row in rows]
