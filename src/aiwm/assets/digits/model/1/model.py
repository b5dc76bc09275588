"""Tells handwritten digits: 64 pixels from 0 to 16 in, the digit and ten probabilities out. Runs inside Triton."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

BRIGHTEST = 16.0


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Reads the weights that lie beside this file."""
        with np.load(Path(__file__).parent / "weights.npz") as weights:
            self._weights = {name: weights[name] for name in weights.files}

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; a request holds any number of rows."""
        return [self._answer(triton.get_input_tensor_by_name(each, "PIXELS").as_numpy()) for each in requests]

    def _answer(self, pixels: Any) -> Any:
        weights = self._weights
        hidden = np.maximum(pixels / BRIGHTEST @ weights["w1"] + weights["b1"], 0)
        scores = hidden @ weights["w2"] + weights["b2"]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        labels = scores.argmax(axis=1).astype(np.int64).reshape(-1, 1)
        return triton.InferenceResponse([triton.Tensor("LABEL", labels), triton.Tensor("SCORES", shares)])
