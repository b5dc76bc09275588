"""What a store URL that leads nowhere gets for an answer."""

import gc
import time

import pytest
from tests import servers

from aiwm.infra.store.open import open_store
from aiwm.kit.settings import SettingsError
from aiwm.protocol.errors import Unavailable


@pytest.mark.parametrize("url", ["postgres://x", "", "sqlite:/x", "/path/only"])
async def test_an_unknown_scheme_names_the_known_ones(url: str) -> None:
    with pytest.raises(SettingsError, match="sqlite:/// or mongodb://"):
        await open_store(url)


@pytest.mark.parametrize(
    "url", ["mongodb://", "mongodb://user:se:cret@host/db", "mongodb://host:port/db", "mongodb://127.0.0.1/bad$name"]
)
async def test_a_wrong_mongodb_url_is_a_wrong_setting_and_shows_no_password(url: str) -> None:
    with pytest.raises(SettingsError, match="AIWM_STORE_URL") as caught:
        await open_store(url)
    assert "cret" not in str(caught.value)


# The driver leaves the socket of a connect that its own close cuts short to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
async def test_a_mongodb_that_is_not_there_is_unavailable_within_seconds() -> None:
    before = time.monotonic()
    with pytest.raises(Unavailable, match="check that it runs"):
        await open_store(f"mongodb://127.0.0.1:{servers.free_port()}/x")
    assert time.monotonic() - before < 6
    gc.collect()
