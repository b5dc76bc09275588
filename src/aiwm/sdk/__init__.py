"""The Python client of AIWM: REST, inference and live events, typed by the protocol."""

from aiwm.sdk.client import Client
from aiwm.sdk.inference import InferResult, RawAnswer, Tensor
from aiwm.sdk.live import Gap, Live
from aiwm.sdk.uploads import UploadProgress

__all__ = ["Client", "Gap", "InferResult", "Live", "RawAnswer", "Tensor", "UploadProgress"]
