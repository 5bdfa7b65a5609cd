#!/usr/bin/env bash
# Builds, tests and benchmarks on a machine with a GPU: benchmarks/gpu.sh DIRECTORY [STAGE ...]
#
# Runs the named stages, or all of them, in this order; each is ended at its time limit. The first four together take at
# most ten minutes, all of them less than fourteen:
#
#   build       the native module, only for this machine's card
#   hopper      small calls of the kernels for Hopper cards, in a separate process
#   trial       scvae-fast doctor --trial: which kernels are correct and faster than eager PyTorch
#   tests       the tests of the operations that run GPU kernels
#   sanitizers  small calls under compute-sanitizer: memcheck, synccheck, racecheck
#   benchmarks  a few decisive cases
#   transforms  PyTorch's transforms of the operations, on the card
#
# Needs nvcc, and python3 with torch, triton, numpy, pip, setuptools, pybind11, cmake and ninja; the tests also need
# pytest, and pytest-xdist to run eight at a time. Downloads nothing. Output is shown immediately and written to the
# directory, with a line for each stage in stages.txt; after every stage, DIRECTORY.tar.gz contains all of it. Environment
# variables: PYTHON names another python3, PATIENCE=3 multiplies every time limit by three, BENCH holds options for
# benchmarks instead of the few cases, SCVAE_FAST_CUDA_ARCHITECTURES names the architectures to compile for.
#
# Exit status 1 if a stage failed or exceeded its limit, 2 if the arguments are wrong. A slow sanitizer is reported, but is
# not a failure.
# shellcheck disable=SC2016,SC2329  # stages are called by their names
set -u -o pipefail

stages=(build hopper trial tests sanitizers benchmarks transforms)
# Seconds; each sanitizer has its own.
declare -A limits=([build]=120 [hopper]=30 [trial]=120 [tests]=240 [sanitizers]=40 [benchmarks]=80 [transforms]=50)
seconds_per_test=100 # after which a hanging kernel ends its process
few_cases=(--minutes 1 --case 'sparse_code-forward-M65536-T30-*' --case 'sparse_code-both-M65536-T30-*'
  --case 'sparse_code-both-M2048-T5-*')

refuse() {
  echo "benchmarks/gpu.sh: $1" >&2
  exit 2
}

# If the directory is forgotten, the first stage must not be taken for it.
[[ -n ${1:-} && -z ${limits[$1]:-} ]] || refuse "give the directory for the results first, then stages: ${stages[*]}"
directory=$1
shift
[[ $# -gt 0 ]] || set -- "${stages[@]}"
for stage in "$@"; do
  [[ -n $stage && -n ${limits[$stage]:-} ]] || refuse "there is no stage '$stage'; there are ${stages[*]}"
done
patience=${PATIENCE:-1}
[[ $patience =~ ^[1-9][0-9]*$ ]] || refuse "PATIENCE must be a whole number, 1 or more, got '$patience'"
mkdir -p "$directory" && out=$(cd "$directory" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 SCVAE_FAST_CACHE=$out/cache
running=
failed=0

# Ctrl-C also reaches the running stage, which keeps its output.
stop() {
  [[ -z $running ]] || kill -INT "$running" 2> /dev/null
  wait
  exit 130
}
trap stop INT TERM

# say LINE: prints it, and adds it to stages.txt.
say() { echo "== $1" | tee -a "$out/stages.txt"; }

# step NAME SECONDS COMMAND ...: runs it, with its output also in NAME.txt, and reports the outcome. Returns its exit status.
# A timeout counts as a failure unless $forgiving.
step() {
  local name=$1 limit=$(($2 * patience)) log=$out/$1.txt begin=$SECONDS status
  shift 2
  echo "== $name: at most $limit s"
  : > "$log"
  timeout --signal=INT --kill-after=10 "$limit" "$@" >> "$log" 2>&1 < /dev/null &
  running=$!
  # Unlike a pipe, this doesn't wait for orphaned processes.
  tail --lines=+1 --follow --sleep-interval=0.2 --pid="$running" "$log" &
  wait "$running"
  status=$?
  running=
  wait
  case $status in
    0) say "$name: passed in $((SECONDS - begin)) s" ;;
    124 | 137)
      say "$name: did not end within $limit s"
      [[ ${forgiving:-} ]] || failed=1
      ;;
    *)
      say "$name: FAILED with exit status $status after $((SECONDS - begin)) s"
      failed=1
      ;;
  esac
  return "$status"
}

has() { "$python" -c "import $1" 2> /dev/null; }

build() {
  local card=${capability/./}
  # Only code for Hopper cards contains their instructions.
  [[ $card != 90 ]] || card=90a
  step build "${limits[build]}" env SCVAE_FAST_CUDA=1 \
    SCVAE_FAST_CUDA_ARCHITECTURES="${SCVAE_FAST_CUDA_ARCHITECTURES:-$card-real}" \
    "$python" -m pip install --verbose --no-index --no-build-isolation --no-deps --editable .
}

hopper() {
  if [[ $capability != 9.0 ]]; then
    say "hopper: skipped, the card has compute capability $capability"
    return
  fi
  step hopper "${limits[hopper]}" "$python" tests/support/small_calls.py hopper
}

trial() { step trial "${limits[trial]}" "$python" -m scvae_fast doctor --trial; }

# tested NAME FILE ...: the tests in these files that run GPU kernels.
tested() {
  local name=$1 words=(-v --tb=short -p no:cacheprovider -W default -m gpu)
  shift
  if ! has pytest; then
    say "$name: FAILED, $python has no pytest"
    failed=1
    return
  fi
  if has xdist; then
    words+=(-n 8 --dist worksteal)
  else
    say "$name: no pytest-xdist, so one test at a time; one that hangs ends them all"
  fi
  # New warnings of a newer torch are not failures.
  step "$name" "${limits[$name]}" env OMP_NUM_THREADS=2 SCVAE_FAST_SECONDS_PER_TEST=$((seconds_per_test * patience)) \
    "$python" -m pytest "${words[@]}" "$@"
}

tests() { tested tests tests/ops/test_{gpu,cuda,fused,triton,lista,sparse_code,options,decode,fuzz}.py; }

transforms() { tested transforms tests/transforms/test_{autograd,derivatives,compiled}.py; }

# sanitized NAME TOOL KERNELS ...: small calls of these kernels under a sanitizer, which may be too slow.
sanitized() {
  local name=$1 tool=$2 forgiving=1 settings=(--unset=PYTORCH_NO_CUDA_MEMORY_CACHING)
  shift 2
  # memcheck knows the bounds of cudaMalloc's blocks, but PyTorch's cache puts many tensors into one block.
  [[ $tool != memcheck ]] || settings=(PYTORCH_NO_CUDA_MEMORY_CACHING=1)
  step "$name" "${limits[sanitizers]}" env "${settings[@]}" \
    "$sanitizer" --tool "$tool" --error-exitcode 9 "$python" tests/support/small_calls.py "$@"
}

sanitizers() {
  local sanitizer calls=(cuda)
  sanitizer=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin command -v compute-sanitizer)
  if [[ -z $sanitizer ]]; then
    say "sanitizers: not run, there is no compute-sanitizer"
    return
  fi
  [[ $capability != 9.0 ]] || calls=(hopper cuda)
  sanitized memcheck memcheck "${calls[@]}"
  sanitized synccheck synccheck "${calls[@]}"
  sanitized racecheck racecheck "${calls[@]}"
  sanitized memcheck-triton memcheck triton
}

benchmarks() {
  local words=("${few_cases[@]}")
  [[ -z ${BENCH:-} ]] || read -r -a words <<< "$BENCH"
  # No trial must start during a measurement.
  step benchmarks "${limits[benchmarks]}" env SCVAE_FAST_TRIAL=0 \
    "$python" -m benchmarks --device cuda --out "$out/benchmarks" "${words[@]}"
}

# Archives all output so far, also for a stopped script.
pack() {
  tar --create --gzip --file "$out.tar.gz.part" --directory "$(dirname "$out")" "$(basename "$out")" &&
    mv "$out.tar.gz.part" "$out.tar.gz" || failed=1
}

date >> "$out/stages.txt"
report='import torch, triton; print(torch.__version__, triton.__version__, torch.cuda.get_device_name(), flush=True)'
step machine 40 bash -c 'nvidia-smi && "$0" -c "$1"' "$python" "$report" || exit 1
# Compute capability of the first card, such as "9.0".
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1)
built=
for stage in "$@"; do
  if [[ $built == no ]]; then
    say "$stage: not run, the build failed"
  else
    "$stage" || [[ $stage != build ]] || built=no
  fi
  pack
done
cat "$out/stages.txt"
echo "$out.tar.gz"
exit "$failed"
