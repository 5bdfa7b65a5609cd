#!/usr/bin/env bash
# Builds, tests and benchmarks on a machine with a GPU, in one go: benchmarks/gpu.sh DIRECTORY
#
# Needs nvcc, and python3 with torch, triton, numpy, pytest, pybind11, cmake and ninja; fetches nothing. Everything it finds is
# written into the directory; a short table comes last. PYTHON names another python3; BENCH holds options for
# benchmarks.gpu. Exit status 1 if a test failed or a result was wrong.
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
"$python" -m benchmarks.accuracy --device cuda --dtypes float32 bfloat16 float16 --json "$out/accuracy.json" 2>&1 |
  tee "$out/accuracy.txt" || status=1
# shellcheck disable=SC2086
"$python" -m benchmarks.gpu --json "$out/gpu.json" ${BENCH:-} 2>&1 | tee "$out/gpu.txt" || status=1
exit "$status"
