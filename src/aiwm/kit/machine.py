"""Whether two processes run on the same machine, told without trusting an address."""

import hashlib
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_mark() -> str | None:
    """A mark all processes on this machine share until it restarts and nobody elsewhere can guess; None if unknown."""
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return None
    return hashlib.sha256(f"aiwm machine {boot}".encode()).hexdigest()
