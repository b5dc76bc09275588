"""Which images a node runs: nothing gets in by another spelling, and a pin is a pin."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.daemon.launchers.docker_images import AllowList, parse_image, repository
from aiwm.protocol.errors import Denied, Invalid

PIN = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)


def allows(patterns: str, image: str) -> bool:
    return AllowList(patterns.split(",")).allows(parse_image(image))


@pytest.mark.parametrize(
    ("patterns", "image"),
    [
        ("vllm/vllm-openai", "vllm/vllm-openai:v0.11.0"),
        ("vllm/vllm-openai:*", "docker.io/vllm/vllm-openai"),
        ("vllm/vllm-openai:v0.*", "index.docker.io/vllm/vllm-openai:v0.11.0"),
        ("busybox", "docker.io/library/busybox:1"),
        ("busybox:latest", "busybox"),
        ("registry.local:5000/team/*", "registry.local:5000/team/deep/engine:3"),
        ("registry.local:5000/team/*", f"registry.local:5000/team/engine@{PIN}"),
        (f"*@{PIN}", f"anywhere.example/any@{PIN}"),
        ("*@sha256:*", f"anywhere.example/any:1@{OTHER}"),
        ("one/a, two/b", "two/b:1"),
        ("*", "anything/at:all"),
        ("lab/*", "lab/a.b__c--d_e"),
    ],
)
def test_an_image_that_a_pattern_names_is_allowed(patterns: str, image: str) -> None:
    assert allows(patterns, image)


@pytest.mark.parametrize(
    ("patterns", "image"),
    [
        ("", "busybox"),
        ("vllm/vllm-openai:*", "evil.example/vllm/vllm-openai:v0.11.0"),
        ("vllm/vllm-openai:*", "vllm/vllm-openai-evil:v0.11.0"),
        ("vllm/vllm-openai:v0.11.0", "vllm/vllm-openai:v0.11.1"),
        ("vllm/vllm-openai:v0.11.0", "vllm/vllm-openai"),
        # Docker runs what the digest says, whatever the tag.
        ("vllm/vllm-openai:v0.11.0", f"vllm/vllm-openai:v0.11.0@{OTHER}"),
        (f"vllm/vllm-openai@{PIN}", "vllm/vllm-openai:v0.11.0"),
        (f"vllm/vllm-openai@{PIN}", f"vllm/vllm-openai@{OTHER}"),
        ("*@sha256:*", "busybox:1"),
        ("registry.local:5000/team/*", "registry.local:5001/team/engine"),
        ("registry.local/team/*", "registry.local/teammate/engine"),
    ],
)
def test_any_other_is_not(patterns: str, image: str) -> None:
    assert not allows(patterns, image)


def test_the_refusal_says_which_setting_allows_it() -> None:
    with pytest.raises(Denied, match="AIWM_ALLOWED_IMAGES") as caught:
        AllowList(["a/b"]).check(parse_image("c/d"), "c/d")
    assert caught.value.code == "IMAGE_NOT_ALLOWED"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-x",
        "UPPER/case",
        "a b",
        "a/../b",
        "a//b",
        "a@sha256:12",
        "a:",
        "a?x=1",
        "a\n",
        "../a",
        "a" * 600,
        "a#b",
        "lab/a..b:1",
        "lab/a.",
        "lab/a___b",
        "lab/-a",
        "lab_/a",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_image(text)


@given(st.lists(WORD, min_size=2, max_size=4), WORD)
def test_a_registry_s_pattern_lets_in_that_registry_alone(path: list[str], tag: str) -> None:
    name = "/".join(path)
    allowed = AllowList(["good.example/*"])
    assert allowed.allows(parse_image(f"good.example/{name}:{tag}"))
    for other in (name, f"good.example.evil.example/{name}", f"evil.example/good.example/{name}"):
        assert not allowed.allows(parse_image(f"{other}:{tag}"))


@given(st.text(max_size=80))
def test_any_text_is_an_image_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(Invalid):
        assert "/" in parse_image(text).name


@pytest.mark.parametrize(
    ("image", "name"),
    [("a/b:1", "a/b"), ("r:5000/a", "r:5000/a"), ("r:5000/a:2", "r:5000/a"), (f"a/b:1@{PIN}", "a/b"), ("a", "a")],
)
def test_a_repository_is_the_name_without_its_version(image: str, name: str) -> None:
    assert repository(image) == name
