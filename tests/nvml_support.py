"""A driver of NVIDIA's for tests: compiled from C once, and told by a text file which GPUs there are."""

from dataclasses import dataclass
from pathlib import Path

from tests import compiled

SOURCE = Path(__file__).parent / "faults" / "fake_nvml.c"


@dataclass(frozen=True, slots=True)
class FakeDriver:
    """`environment` makes a process see the driver; `say` changes what it says, at once and for all of them."""

    library: Path
    control: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": str(self.library), "AIWM_TEST_FAKE_NVML": str(self.control)}

    def say(self, *lines: str) -> None:
        draft = self.control.with_suffix(".new")
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.replace(self.control)


def build(folder: Path, *flags: str) -> Path:
    """Compiles the library into `folder`; skips where there is no compiler."""
    compiled.shared_library(SOURCE, folder / "libnvidia-ml.so.1", *flags)
    return folder
