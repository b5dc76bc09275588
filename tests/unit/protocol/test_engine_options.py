"""What a deployment may say to its engine: what is listed, in both forms, and nothing else however it is written."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiwm.protocol.engine_arguments import ALLOWED, TRITON, VLLM
from aiwm.protocol.engine_options import Option, check_options, options, wants_remote_code
from aiwm.protocol.engine_variables import OWN, TUNING, TUNING_FAMILIES
from aiwm.protocol.errors import FieldError, Invalid
from aiwm.protocol.states import EngineName

DOCS = Path(__file__).parents[3] / "docs/engines.md"


def refused(engine: EngineName, *arguments: str, **variables: str) -> list[FieldError]:
    try:
        check_options(engine, arguments, variables)
    except Invalid as error:
        return error.fields
    return []


def places(engine: EngineName, *arguments: str, **variables: str) -> list[str]:
    return [each.field for each in refused(engine, *arguments, **variables)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-model-len=8192", "--max-num-seqs", "64", "--enforce-eager"),
        ("--max-model-len", "8k", "--max_num_batched_tokens=auto", "--no-enable-prefix-caching"),
        ("--tool-call-parser=hermes", "--enable-auto-tool-choice", "--reasoning-parser", "qwen3"),
        ("--hf-overrides", '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}', "--dtype=bfloat16"),
        ("--chat-template", "templates/chat.jinja"),
        ("--chat-template={% for m in messages %}{{ m.content }}{% endfor %}",),
        ("--quantization=awq_marlin", "--kv-cache-dtype", "fp8_e5m2", "--cpu-offload-gb", "2.5", "--seed", "-1"),
        ("--tensor-parallel-size=2", "--trust-remote-code"),
        ("--hf-overrides", '{"architectures": ["Qwen2ForCausalLM"], "note": "Qwen2.5 v1.0"}'),
        ("--pooler-config", '{"pooling_type": "CLS", "logit_mean": 0.5}', "--limit-mm-per-prompt", '{"image": 2}'),
        ("--mm-processor-kwargs", '{"min_pixels": 784, "size": {"shortest_edge": 1}}'),
        ("--override-generation-config", '{"temperature": 0.2, "stop_strings": ["e.g."]}'),
        ("--default-chat-template-kwargs", '{"enable_thinking": false, "system": "Write to a.b. Be brief..."}'),
        ("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}'),
        ("--speculative-config", '{"method": "suffix", "suffix_decoding_min_token_prob": 0.2}'),
        ("--speculative-config", '{"method": "deepseek_mtp", "num_speculative_tokens": 1}'),
    ],
)
def test_what_tunes_vllm_is_taken(arguments: tuple[str, ...]) -> None:
    assert refused(EngineName.VLLM, *arguments) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--log-verbose=1", "--pinned-memory-pool-byte-size", "1048576", "--model-load-thread-count=4"),
        ("--rate-limit=execution_count", "--rate-limit-resource=R1:4:0", "--cache-config=local,size=1048576"),
        ("--backend-config=python,shm-default-byte-size=1048576", "--disable-auto-complete-config"),
        ("--metrics-config=summary_latencies=true", "--backend-config=onnxruntime,default-max-batch-size=4"),
    ],
)
def test_what_tunes_triton_is_taken(arguments: tuple[str, ...]) -> None:
    assert refused(EngineName.TRITON, *arguments) == []


HOSTILE_VLLM = [
    "--host=0.0.0.0",
    "--hos=0.0.0.0",
    "--port=22",
    "--uds=/tmp/x",
    "--root-path=/x",
    "--api-key=mine",
    "--api_key=mine",
    "--middleware=os.system",
    "--ssl-keyfile=/etc/key",
    "--allowed-origins=*",
    "--model=/etc",
    "--tokenizer=/etc",
    "--download-dir=/tmp",
    "--config=/tmp/x.yaml",
    "--lora-modules=a=/etc",
    "--served-model-name=other",
    "--gpu-memory-utilization=1.0",
    "--allowed-local-media-path=/",
    "--tool-parser-plugin=/tmp/x.py",
    "--logits-processors=os:system",
    "--worker-extension-cls=os.system",
    "--speculative-config.model=/etc",
    '--speculative-config={"model": "/models/other"}',
    '--speculative-config={"model": "\\u002fetc"}',
    '--speculative-config={"method": "ngram", "model": ".."}',
    '--speculative-config={"method": "custom_class", "num_speculative_tokens": 1}',
    '--speculative-config={"method": "eagle", "num_speculative_tokens": 1}',
    '--speculative-config={"method": "ngram", "num_speculative_tokens": "4"}',
    '--speculative-config={"method": "ngram", "draft_load_config": {}}',
    '--speculative-config={"method": "ngram", "prompt_lookup_max": true}',
    '--speculative-config={"method": ["ngram"]}',
    '--speculative-config={"num_speculative_tokens": 1}',
    "--speculative-config=[]",
    '--hf-overrides={"a": [{"..\\\\x": 1}]}',
    '--hf-overrides={"auto_map": {"AutoModel": "modeling.Mine"}}',
    '--hf-overrides={"a.b": 1}',
    '--hf-overrides={"model": ".."}',
    '--pooler-config={"activation": "os.system"}',
    '--mm-processor-kwargs={"backend": "a.b"}',
    '--override-generation-config={"a": ["."]}',
    '--default-chat-template-kwargs={"a": "..."}',
    "--hf-overrides=[1]",
    "--hf-overrides={",
    "--chat-template=/etc/passwd",
    "--chat-template=../../etc/x.jinja",
    "--chat-template=templates/../../x.jinja",
    "--chat-template=etc/passwd",
    "--kv-transfer-config={}",
    "--compilation-config={}",
    "--quantization=../x",
    "--dtype=/etc",
    "--max-model-len=1;reboot",
    "--max-num-seqs=0x10",
    "--enforce-eager=yes",
    "--no-max-num-seqs",
    "--no-host",
    "--max-num-seqs",
    "-tp",
    "-O3",
    "@file",
    "serve",
    "--",
    "",
    "--max-num-seqs=1\n--host=0.0.0.0",
]


@pytest.mark.parametrize("argument", HOSTILE_VLLM)
def test_what_is_not_listed_or_does_not_fit_is_refused_by_its_place(argument: str) -> None:
    assert places(EngineName.VLLM, "--seed=1", argument) == ["engineArgs[1]"]


@pytest.mark.parametrize(
    "argument",
    [
        "--model-repository=/etc",
        "--model-rep=/etc",
        "--backend-directory=/tmp",
        "--http-address=0.0.0.0",
        "--http-port=1",
        "--log-file=/tmp/x",
        "--trace-config=triton,file=/tmp/x",
        "--cache-config=redis,host=elsewhere",
        "--cache-directory=/tmp",
        "--backend-config=python,python-runtime=/tmp/x",
        "--backend-config=tensorrt,plugins=/tmp/x.so",
        "--load-model=other",
        "--model_load_thread_count=1",
        "--host-policy=0,cpu-cores=0",
        "--rate-limit-resource=R1:x",
    ],
)
def test_triton_takes_no_paths_addresses_or_repositories(argument: str) -> None:
    assert places(EngineName.TRITON, argument) == ["engineArgs[0]"]


def test_a_value_in_a_piece_of_its_own_is_checked_like_a_joined_one() -> None:
    assert places(EngineName.VLLM, "--max-num-seqs", "x", "--seed", "1", "--chat-template", "/etc/x.jinja") == [
        "engineArgs[0]",
        "engineArgs[4]",
    ]
    assert places(EngineName.VLLM, "--max-num-seqs", "--host=x") == ["engineArgs[0]", "engineArgs[1]"]


def test_a_refusal_says_why_and_what_to_do() -> None:
    (share,) = refused(EngineName.VLLM, "--gpu-memory-utilization=0.5")
    assert "say in resources.gpuMemory" in share.message
    (unknown,) = refused(EngineName.VLLM, "--frobnicate")
    assert "docs/engines.md lists" in unknown.message
    (value,) = refused(EngineName.VLLM, "--dtype=int3")
    assert value.message.startswith("the value of --dtype must be one of auto, ")


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "HOME", "IFS", "ENV", "BASH_ENV"),
        *("GLIBC_TUNABLES", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "AIWM_NODE_TOKEN", "NODE_TOKEN"),
        *("DOCKER_HOST", "HOST", "PORT", "MODEL_DIR", "SSL_CERT_FILE", "CUDA_INJECTION64_PATH"),
        *("OPENSSL_CONF", "OPENSSL_MODULES", "UCX_MODULE_DIR", "CUDACXX", "TORCH_LOGS_OUT", "MALLOC_TRACE"),
        *("PROMETHEUS_MULTIPROC_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "all_proxy"),
    ],
)
def test_no_engine_is_given_variables_that_load_or_trust_something_else(name: str) -> None:
    for engine in EngineName:
        assert places(engine, **{name: "x"}) == [f"environmentVariables.{name}"]


@pytest.mark.parametrize(
    "name",
    [
        *("VLLM_PLUGINS", "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_API_KEY", "VLLM_LOGGING_CONFIG_PATH"),
        *("VLLM_SERVER_DEV_MODE", "VLLM_USE_MODELSCOPE", "VLLM_HOST_IP", "HF_HUB_OFFLINE", "HF_TOKEN", "CC"),
        *("NCCL_NET_PLUGIN", "NCCL_TOPO_FILE", "TRITON_PTXAS_PATH", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"),
        *("NCCL_DEBUG_FILE", "NCCL_COMM_ID", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE", "GREETING", "app_x", "APPX", "MODELS"),
        *("VLLM_USE_RUST_FRONTEND", "VLLM_USE_PRECOMPILED", "LOCPATH", "OMP_TOOL_LIBRARIES", "A"),
    ],
)
def test_vllm_and_triton_take_no_variable_that_is_not_listed(name: str) -> None:
    for engine in (EngineName.VLLM, EngineName.TRITON):
        (found,) = refused(engine, **{name: "x"})
        assert (found.field, found.code) == (f"environmentVariables.{name}", "VARIABLE_NOT_ALLOWED")


@given(st.text(alphabet="ABDELMOPRT_", min_size=1, max_size=10), st.sampled_from(list(ALLOWED)))
def test_a_variable_is_listed_or_the_models_own_or_refused(name: str, engine: EngineName) -> None:
    own = name.startswith(("APP_", "MODEL_")) and name != "MODEL_DIR"
    assert places(engine, **{name: "/x"}) == ([] if own else [f"environmentVariables.{name}"])


def test_a_deployments_own_variables_and_those_that_tune_are_taken() -> None:
    plain = {"APP_GREETING": "/any ~thing", "MODEL_LABELS": "a", "OMP_NUM_THREADS": "4", "NCCL_DEBUG": "INFO"}
    tuned = {"VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_USE_DEEP_GEMM": "0", "LC_ALL": "de_DE.UTF-8", "TZ": "Europe/Berlin"}
    for engine in EngineName:
        assert refused(engine, **plain, **tuned, TORCH_NCCL_BLOCKING_WAIT="1") == []
    assert refused(EngineName.CUSTOM, HF_HOME="/tmp", VLLM_PLUGINS="mine", DATA_DIR="/data", GREETING="hello") == []
    for engine in EngineName:
        assert places(engine, APP_GREETING="a\0b") == ["environmentVariables.APP_GREETING"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PYTORCH_CUDA_ALLOC_CONF", "backend:/x.so"), ("LANG", "../x"), ("NCCL_SOCKET_IFNAME", "~x")),
        *(("TZ", ":/etc/shadow"), ("TZ", "/etc/x"), ("TZ", "../x"), ("TZ", "a/../b"), ("VLLM_USE_X", "a\\b")),
    ],
)
def test_what_tunes_names_no_file(name: str, value: str) -> None:
    assert places(EngineName.VLLM, **{name: value}) == [f"environmentVariables.{name}"]


def test_a_refused_variable_says_how_to_name_a_models_own() -> None:
    (found,) = refused(EngineName.TRITON, GREETING="hello")
    assert "variables of a model's own begin with APP_ or MODEL_" in found.message


def test_the_docs_list_exactly_the_variables_that_are_taken() -> None:
    table = DOCS.read_text().partition("| what | variables |")[2].partition("\n\n")[0]
    taken = re.findall(r"`([A-Z_]\w+\*?)`", re.sub(r"\(not [^)]*\)", "", table))
    assert sorted(taken) == sorted([*TUNING, *(f"{each}*" for each in (*OWN, *TUNING_FAMILIES))])


def test_a_custom_engine_is_told_anything_but_what_no_program_can_be_told() -> None:
    assert refused(EngineName.CUSTOM, "python3", "-m", "http.server", "--host=0.0.0.0") == []
    assert places(EngineName.CUSTOM, "echo", "a\0b") == ["engineArgs[1]"]


def test_arguments_go_out_in_one_piece_each_under_their_full_names() -> None:
    given_arguments = ("--max_model_len", "1k", "--seed=-1", "--no_enforce_eager", "--trust-remote-code")
    found = options(EngineName.VLLM, given_arguments)
    assert [each.text for each in found] == [
        "--max-model-len=1k",
        "--seed=-1",
        "--no-enforce-eager",
        "--trust-remote-code",
    ]
    assert wants_remote_code(found)
    assert not wants_remote_code(options(EngineName.VLLM, ("--no-trust-remote-code",)))


PIECES = st.one_of(
    st.sampled_from([*VLLM.arguments, *VLLM.refused, *TRITON.arguments, *TRITON.refused, "1", "auto", "{}", "=", "-1"]),
    st.sampled_from([f"{name}=1" for name in VLLM.arguments]),
    st.text(alphabet="-=a/_1{\0. ", max_size=12),
)


@given(st.sampled_from([EngineName.VLLM, EngineName.TRITON]), st.lists(PIECES, max_size=8))
def test_whatever_is_given_either_each_piece_is_a_listed_argument_or_it_is_refused(
    engine: EngineName, pieces: list[str]
) -> None:
    found = options(engine, pieces)
    allowed = ALLOWED[engine]
    for each in found:
        bare = f"--{each.name.removeprefix('--no-')}" if each.name.startswith("--no-") else each.name
        kind = allowed.arguments[bare]
        assert (each.value is None) == (kind is None)
        assert kind is None or kind.fits(each.value or "")
        assert "\0" not in each.text
    if refused(engine, *pieces):
        return
    assert options(engine, [each.text for each in found]) == found
    values = sum(1 for each in found if each.value is not None)
    assert len(found) <= len(pieces) <= len(found) + values


@given(st.text(alphabet="ab/\\~\0\u00e9.", max_size=6))
def test_json_is_taken_only_when_none_of_its_texts_could_be_a_path_or_an_imported_name(text: str) -> None:
    for value in ({"a": [{"b": text}]}, {text: 1}):
        found = refused(EngineName.VLLM, f"--hf-overrides={json.dumps(value)}")
        path = any(mark in text for mark in "/\\~\0") or (text != "" and not text.strip("."))
        dotted = any(f"{one}.{two}" in text for one in "ab\u00e9" for two in "ab\u00e9")
        assert bool(found) == (path or dotted)
        assert bool(refused(EngineName.VLLM, f"--default-chat-template-kwargs={json.dumps(value)}")) == path


@pytest.mark.parametrize("engine", ALLOWED)
def test_the_docs_list_exactly_what_is_taken(engine: EngineName) -> None:
    (row,) = (line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{engine}` | `--"))
    assert set(re.findall(r"`(--[\w-]+)`", row.partition(". Switches")[0])) == set(ALLOWED[engine].arguments)


def test_the_lists_of_what_is_allowed_and_what_is_refused_do_not_overlap() -> None:
    for allowed in ALLOWED.values():
        assert not set(allowed.arguments) & set(allowed.refused)
    assert Option("--seed", "1").text == "--seed=1"
