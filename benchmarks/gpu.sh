#!/usr/bin/env bash
# Builds, tests and benchmarks on a machine with a GPU, in one go: benchmarks/gpu.sh DIRECTORY
#
# Needs nvcc, and python3 with torch, triton, numpy, pytest, pybind11, cmake and ninja, for the pictures and the model also
# what the extra "train" brings; fetches nothing. Everything it finds is written into the directory, where a benchmark that
# was stopped goes on; a short table comes last. PYTHON names another python3; BENCH holds options for benchmarks, in the
# place of "--minutes 6". Exit status 1 if a test failed or a result was wrong.
set -u -o pipefail
cd "$(dirname "$0")/.."
out=${1:?benchmarks/gpu.sh: say which directory takes the results}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
mkdir -p "$out" || exit

{ nvidia-smi; "$python" -c 'import torch, triton; print(torch.__version__, triton.__version__)'; } > "$out/machine.txt" 2>&1
"$python" -m pip install --quiet --no-index --no-build-isolation --no-deps --editable . > "$out/build.txt" 2>&1 || {
  tail -n 20 "$out/build.txt"
  exit 1
}
status=0
"$python" -m pytest -q -p no:cacheprovider -k "triton or cuda" \
  tests/ops/test_{fused,triton,cuda,gpu,fuzz,lista,sparse_code,decode}.py 2>&1 | tee "$out/tests.txt" | tail -n 30 || status=1
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" -m pytest -q -p no:cacheprovider \
      tests/ops/test_fused.py -k "test_gradients_of_one_result" > "$out/$tool.txt" 2>&1 || status=1
    tail -n 2 "$out/$tool.txt"
  done
fi
# shellcheck disable=SC2086
"$python" -m benchmarks --device cuda --out "$out" ${BENCH:---minutes 6} 2> >(tee "$out/progress.txt" >&2) |
  tee "$out/summary.txt" || status=1
exit "$status"
