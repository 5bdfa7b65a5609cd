#!/usr/bin/env bash
# Builds, tests and benchmarks on a machine with a GPU: benchmarks/gpu.sh DIRECTORY [STAGE ...]
#
# Stages, all of them in this order unless some are named; each is ended at its limit. The first four together take ten
# minutes at most, the whole less than fourteen:
#
#   build       the native module, for this machine's card alone
#   hopper      small calls of the kernels for Hopper cards, in a process of their own
#   trial       scvae-fast doctor --trial: which kernels are right and faster than eager PyTorch
#   tests       the tests of the operations that run kernels for GPUs
#   sanitizers  small calls under compute-sanitizer: memcheck, synccheck, racecheck
#   benchmarks  the few cases that decide
#   transforms  what PyTorch can do to an operation, on the card
#
# Needs nvcc, and python3 with torch, triton, numpy, pip, setuptools, pybind11, cmake and ninja; the tests also pytest, and
# pytest-xdist to run eight at a time. Fetches nothing. Output comes as it is written, and goes into the directory, with a
# line for each stage in stages.txt; DIRECTORY.tar.gz holds it all after every stage. Of the environment: PYTHON names
# another python3, PATIENCE=3 makes every limit three times as long, BENCH holds options for benchmarks in the place of
# those few cases, SCVAE_FAST_CUDA_ARCHITECTURES says what to compile for.
#
# Exit status 1 if a stage failed or ran past its limit, 2 if the call makes no sense. A sanitizer that is slow is named,
# and no failure.
# shellcheck disable=SC2016,SC2329  # stages are called by their names
set -u -o pipefail

stages=(build hopper trial tests sanitizers benchmarks transforms)
# Seconds; each sanitizer has its own.
declare -A limits=([build]=120 [hopper]=30 [trial]=120 [tests]=240 [sanitizers]=40 [benchmarks]=80 [transforms]=50)
seconds_per_test=100 # a kernel that hangs ends its process then
few_cases=(--minutes 1 --case 'sparse_code-forward-M65536-T30-*' --case 'sparse_code-both-M65536-T30-*'
  --case 'sparse_code-both-M2048-T5-*')

refuse() {
  echo "benchmarks/gpu.sh: $1" >&2
  exit 2
}

# So that a directory that was forgotten doesn't take results.
[[ -n ${1:-} && -z ${limits[$1]:-} ]] || refuse "say first which directory takes the results, then stages: ${stages[*]}"
directory=$1
shift
[[ $# -gt 0 ]] || set -- "${stages[@]}"
for stage in "$@"; do
  [[ -n $stage && -n ${limits[$stage]:-} ]] || refuse "there is no stage '$stage'; there are ${stages[*]}"
done
patience=${PATIENCE:-1}
[[ $patience =~ ^[1-9][0-9]*$ ]] || refuse "PATIENCE must be a whole number from 1 on, got '$patience'"
mkdir -p "$directory" && out=$(cd "$directory" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 SCVAE_FAST_CACHE=$out/cache
running=
failed=0

# Ctrl-C reaches what runs as well; it keeps what it has.
stop() {
  [[ -z $running ]] || kill -INT "$running" 2> /dev/null
  wait
  exit 130
}
trap stop INT TERM

# say LINE: on the terminal and in stages.txt.
say() { echo "== $1" | tee -a "$out/stages.txt"; }

# step NAME SECONDS COMMAND ...: runs it, its output in NAME.txt too, and says how it went. Returns its exit status.
# Time that is up counts as a failure unless $forgiving.
step() {
  local name=$1 limit=$(($2 * patience)) log=$out/$1.txt begin=$SECONDS status
  shift 2
  echo "== $name: at most $limit s"
  : > "$log"
  timeout --signal=INT --kill-after=10 "$limit" "$@" >> "$log" 2>&1 < /dev/null &
  running=$!
  # Unlike a pipe this doesn't wait for processes that were left behind.
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
  # The instructions of Hopper cards are in no code but their own.
  [[ $card != 90 ]] || card=90a
  step build "${limits[build]}" env SCVAE_FAST_CUDA=1 \
    SCVAE_FAST_CUDA_ARCHITECTURES="${SCVAE_FAST_CUDA_ARCHITECTURES:-$card-real}" \
    "$python" -m pip install --verbose --no-index --no-build-isolation --no-deps --editable .
}

hopper() {
  if [[ $capability != 9.0 ]]; then
    say "hopper: passed over, the card has compute capability $capability"
    return
  fi
  step hopper "${limits[hopper]}" "$python" tests/support/small_calls.py hopper
}

trial() { step trial "${limits[trial]}" "$python" -m scvae_fast doctor --trial; }

# tested NAME FILE ...: the tests of these files that run kernels for GPUs.
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
  # New warnings of a new torch are no failures.
  step "$name" "${limits[$name]}" env OMP_NUM_THREADS=2 SCVAE_FAST_SECONDS_PER_TEST=$((seconds_per_test * patience)) \
    "$python" -m pytest "${words[@]}" "$@"
}

tests() { tested tests tests/ops/test_{gpu,cuda,fused,triton,lista,sparse_code,options,decode,fuzz}.py; }

transforms() { tested transforms tests/transforms/test_{autograd,derivatives,compiled}.py; }

# sanitized NAME TOOL KERNELS ...: small calls of these kernels under a sanitizer, which may be too slow for them.
sanitized() {
  local name=$1 tool=$2 forgiving=1 settings=(--unset=PYTORCH_NO_CUDA_MEMORY_CACHING)
  shift 2
  # memcheck knows the bounds of what cudaMalloc gave: PyTorch's cache puts many tensors into one such piece.
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
  # What no trial has judged is not tried in the middle of a measurement.
  step benchmarks "${limits[benchmarks]}" env SCVAE_FAST_TRIAL=0 \
    "$python" -m benchmarks --device cuda --out "$out/benchmarks" "${words[@]}"
}

# All that there is so far; whoever stops the script has it too.
pack() {
  tar --create --gzip --file "$out.tar.gz.part" --directory "$(dirname "$out")" "$(basename "$out")" &&
    mv "$out.tar.gz.part" "$out.tar.gz" || failed=1
}

date >> "$out/stages.txt"
report='import torch, triton; print(torch.__version__, triton.__version__, torch.cuda.get_device_name(), flush=True)'
step machine 40 bash -c 'nvidia-smi && "$0" -c "$1"' "$python" "$report" || exit 1
# Of the first card: "9.0".
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
