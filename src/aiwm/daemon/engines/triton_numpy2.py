"""Arrays in and out of Triton's Python backend under numpy 2.

The backend's helper was compiled for numpy 1 and reads numpy 2's array types at the wrong offsets: without an error it
hands a model `[1, 1]` for `[1, 2]`. DLPack goes another way and is right under both, so under numpy 2 all arrays take
it; strings, which DLPack does not know, fail loudly instead of being read wrongly. This file's text is appended to the
backend's own `triton_python_backend_utils.py` and runs inside the engine, never in the daemon.
"""

from typing import Any


def take_dlpack(backend: Any, numpy: Any) -> None:
    """Makes `backend`'s tensors convert by DLPack, if `numpy` is one that its own conversion gets wrong."""
    if int(numpy.__version__.split(".")[0]) < 2:
        return
    original = backend.Tensor

    no_strings = (
        "this Triton cannot exchange strings with numpy 2; install numpy 1 (Python <= 3.12): pip install 'numpy<2'"
    )

    def as_numpy(tensor: Any) -> Any:
        # A copy, because the array that comes by DLPack may not be written to.
        return numpy.array(numpy.from_dlpack(tensor))

    class Kind(type):
        def __call__(cls, name: str, array: Any) -> Any:
            if array.dtype.kind in "OSU":
                raise TypeError(no_strings)
            return original.from_dlpack(name, numpy.ascontiguousarray(array).reshape(array.shape))

        def __instancecheck__(cls, candidate: Any) -> bool:
            return isinstance(candidate, original)

    class Tensor(metaclass=Kind):
        from_dlpack = staticmethod(original.from_dlpack)

    original.as_numpy = as_numpy
    backend.Tensor = Tensor
