"""Tells what an image of any size is most: red, green, blue or striped. Runs inside Triton."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

BRIGHTEST = 255.0
SHARPNESS = 8.0


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response of four probabilities for each request's image."""
        images = [triton.get_input_tensor_by_name(each, "IMAGE").as_numpy() for each in requests]
        return [triton.InferenceResponse([triton.Tensor("SCORES", scores(each))]) for each in images]


def scores(image: Any) -> Any:
    """A softmax over how much of each colour there is beyond grey, and how much neighbouring pixels differ."""
    pixels = image.astype(np.float32) / BRIGHTEST
    colours = (pixels - pixels.mean(axis=2, keepdims=True)).mean(axis=(0, 1))
    stripes = np.abs(np.diff(pixels, axis=1)).mean()
    powers = np.exp(SHARPNESS * np.append(colours, stripes))
    return (powers / powers.sum()).astype(np.float32)
