"""Which paths are exempt from the limits of JSON requests."""

import pytest

from aiwm.http.paths import loggable, takes_raw_body


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/blobs/token",
        "/api/v1/deployments/deploy-1/inference",
        "/api/v1/deployments/deploy-1/inference/v2/models",
        "/v1/chat/completions",
        "/v2/models/m/infer",
        "/v2",
    ],
)
def test_blobs_and_inference_take_raw_bodies(path: str) -> None:
    assert takes_raw_body(path)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nodes",
        "/api/v1/deployments/deploy-1",
        "/api/v1/deployments/deploy-1/inferences",
        "/api/v1/deployments/a/b/inference/x",
        "/v1x",
        "/x/v1/models",
        "/api/v1/nodes/x/api/v1/blobs/y",
    ],
)
def test_nothing_else_does(path: str) -> None:
    assert not takes_raw_body(path)


def test_tokens_of_blobs_stay_out_of_the_log() -> None:
    assert loggable("/api/v1/blobs/secret") == "/api/v1/blobs/…"
    assert loggable("/api/v1/nodes/node-1") == "/api/v1/nodes/node-1"
