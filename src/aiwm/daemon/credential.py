"""The node's token: the one it was given, until the controller sent a newer one, which is kept for the next connect."""

import hashlib
import json
import logging
from pathlib import Path

from aiwm.daemon.keeper import write_atomically

log = logging.getLogger(__name__)

_FILE = "renewed-token"


class Credential:
    """`token` is what opens the controller. A renewed one is kept below `folder`, 0600, beside a mark of the given one.

    A node that is given another token uses that one: the mark no longer fits.
    """

    def __init__(self, folder: Path, given: str) -> None:
        self._path, self._given = folder / _FILE, given
        self._mark = hashlib.sha256(given.encode()).hexdigest()
        self._renewed = self._kept()
        self.token = self._renewed or given

    def renewed(self, token: str) -> None:
        """Uses `token` from the next connect on; where it cannot be kept, until this daemon ends."""
        self.token = self._renewed = token
        try:
            write_atomically(self._path, {"after": self._mark, "token": token})
        except OSError as error:
            log.warning("cannot keep the renewed token in %s: %s", self._path, error.strerror)

    def refused(self) -> None:
        """The token opens nothing now: the other of the two is tried next, the given one or the renewed one.

        Both in turns, as a controller that was started with wrong keys refuses what is good again afterwards.
        """
        self.token = self._given if self.token == self._renewed else self._renewed or self._given

    def replaced(self, given: str) -> None:
        """The node was given another token, which counts as the given one from now on."""
        self.token = self._given = given
        self._mark = hashlib.sha256(given.encode()).hexdigest()
        self._renewed = None

    def _kept(self) -> str | None:
        try:
            kept = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("cannot read the renewed token in %s: %s; the given one is used", self._path, error)
            return None
        fits = isinstance(kept, dict) and kept.get("after") == self._mark and isinstance(kept.get("token"), str)
        return str(kept["token"]) if fits else None
