"""Counts the letters of texts and turns the texts round. Says itself what goes in and out. Runs inside Triton."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What Triton's Python backend calls."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Called by Triton for the inputs and outputs, as no configuration was uploaded."""
        config.add_input({"name": "TEXT", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "TURNED", "data_type": "TYPE_STRING", "dims": [-1]})
        config.add_output({"name": "LETTERS", "data_type": "TYPE_INT32", "dims": [-1]})
        config.set_max_batch_size(0)
        return config

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; a request holds any number of texts, as UTF-8."""
        return [self._answer(triton.get_input_tensor_by_name(each, "TEXT").as_numpy()) for each in requests]

    def _answer(self, texts: Any) -> Any:
        words = [text.decode() for text in texts]
        turned = np.array([word[::-1].encode() for word in words], dtype=np.object_)
        letters = np.array([len(word) for word in words], dtype=np.int32)
        return triton.InferenceResponse([triton.Tensor("TURNED", turned), triton.Tensor("LETTERS", letters)])
