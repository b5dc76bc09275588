"""Trains the digit classifier that the product ships: the same rows and seed always give the same weights.

Reads the training rows only; the held-out rows are a file of their own that `aiwm demo` predicts and this never opens.
Run it with the extra `triton` (numpy): `python scripts/train_classifier.py [--out weights.npz]`.
"""

import argparse
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from aiwm import assets

Array = np.ndarray[Any, np.dtype[np.float64]]
Weights = dict[str, Array]

SEED = 20260101
HIDDEN = 48
CLASSES = 10
EPOCHS = 60
BATCH = 32
RATE = 0.003
DECAY = 1e-3


def main(arguments: list[str]) -> int:
    """Trains and writes the weights; prints how many training rows they get right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=assets.MODEL / "1" / "weights.npz")
    given = parser.parse_args(arguments)
    rows = assets.digits(assets.TRAINING)
    pixels = np.array([row.pixels for row in rows], dtype=np.float64)
    labels = np.array([row.label for row in rows])
    weights = train(pixels, labels)
    save(weights, given.out)
    right = float((predict(weights, pixels) == labels).mean())
    print(f"{len(rows)} training rows, {right:.1%} right, written to {given.out}")
    return 0


def train(pixels: Array, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Weights:
    """One hidden layer, softmax, Adam: small enough to read, good enough for 8 x 8 pixels."""
    random = np.random.default_rng(SEED)
    x, y = pixels / assets.BRIGHTEST, np.eye(CLASSES)[labels]
    weights: Weights = {
        "w1": random.normal(0, np.sqrt(2 / x.shape[1]), (x.shape[1], HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": random.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)),
        "b2": np.zeros(CLASSES),
    }
    optimizer = _Adam(weights)
    for _ in range(EPOCHS):
        order = random.permutation(len(x))
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            optimizer.step(weights, _gradients(weights, x[chosen], y[chosen]))
    return weights


def _gradients(weights: Weights, x: Array, y: Array) -> Weights:
    hidden = np.maximum(x @ weights["w1"] + weights["b1"], 0)
    error = (_softmax(hidden @ weights["w2"] + weights["b2"]) - y) / len(x)
    back = (error @ weights["w2"].T) * (hidden > 0)
    return {
        "w1": x.T @ back + DECAY * weights["w1"],
        "b1": back.sum(axis=0),
        "w2": hidden.T @ error + DECAY * weights["w2"],
        "b2": error.sum(axis=0),
    }


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


class _Adam:
    """Adam with its usual constants."""

    def __init__(self, weights: Weights) -> None:
        self._mean = {name: np.zeros_like(value) for name, value in weights.items()}
        self._square = {name: np.zeros_like(value) for name, value in weights.items()}
        self._steps = 0

    def step(self, weights: Weights, gradients: Weights) -> None:
        """Moves `weights` in place."""
        self._steps += 1
        for name, gradient in gradients.items():
            self._mean[name] = 0.9 * self._mean[name] + 0.1 * gradient
            self._square[name] = 0.999 * self._square[name] + 0.001 * gradient**2
            mean = self._mean[name] / (1 - 0.9**self._steps)
            square = self._square[name] / (1 - 0.999**self._steps)
            weights[name] -= RATE * mean / (np.sqrt(square) + 1e-8)


def predict(weights: Weights, pixels: Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The most likely digit of each row."""
    hidden = np.maximum(pixels / assets.BRIGHTEST @ weights["w1"] + weights["b1"], 0)
    return np.asarray((hidden @ weights["w2"] + weights["b2"]).argmax(axis=1))


def save(weights: Weights, path: Path) -> None:
    """Writes `path` as float32, without the clock times that numpy's own writer puts into it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in weights.items():
            content = BytesIO()
            np.save(content, value.astype(np.float32))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
