"""The shipped classifier is what its script makes of the training rows, and knows rows it never saw."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import train_classifier

from aiwm import assets


def _arrays(path: Path) -> tuple[Any, Any]:
    rows = assets.digits(path)
    return np.array([row.pixels for row in rows], dtype=np.float64), np.array([row.label for row in rows])


@pytest.fixture
def shipped() -> train_classifier.Weights:
    with np.load(assets.MODEL / "1" / "weights.npz") as weights:
        return {name: weights[name] for name in weights.files}


def test_the_shipped_weights_come_from_the_training_rows_alone(shipped: train_classifier.Weights) -> None:
    made = train_classifier.train(*_arrays(assets.TRAINING))
    assert made.keys() == shipped.keys()
    for name, values in made.items():
        np.testing.assert_allclose(values, shipped[name], atol=2e-3)


def test_the_classifier_knows_nine_of_ten_rows_it_never_saw(shipped: train_classifier.Weights) -> None:
    pixels, labels = _arrays(assets.HELDOUT)
    assert len(labels) >= 300
    assert (train_classifier.predict(shipped, pixels) == labels).mean() > 0.95


def test_no_row_is_both_for_training_and_held_out() -> None:
    assert not set(assets.digits(assets.TRAINING)) & set(assets.digits(assets.HELDOUT))


def test_every_file_of_the_model_is_there() -> None:
    assert all((assets.MODEL / name).is_file() for name in assets.MODEL_FILES)
