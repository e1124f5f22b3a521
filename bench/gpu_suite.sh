#!/usr/bin/env bash
# bench/gpu_suite.sh OUTDIR: everything a GPU has to say about this checkout, in nine minutes and without a network.
#
# Builds in place, runs the GPU tests, compute-sanitizer and the benchmarks; leaves record.json, record.md and a log a stage
# in OUTDIR. Each stage has a time limit and none stops the next one. PYTHON names the interpreter (python3), which needs torch; nvcc
# must be on the PATH. Exit status: 0 all stages passed, 1 one of them failed, 2 wrong use, 3 no GPU.
set -uo pipefail

[ $# -eq 1 ] || { echo "usage: bench/gpu_suite.sh OUTDIR" >&2; exit 2; }
python=${PYTHON:-python3}
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

arch=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2> /dev/null) || {
  echo "gpu_suite: no CUDA GPU that torch can use here; nothing was run" >&2
  exit 3
}
[ "$arch" = 90 ] && arch=90a # the code that only exists for Hopper is built, too

total=525
: > "$out/stages.tsv"

# stage NAME LIMIT COMMAND...: run it for at most LIMIT seconds and within the total, log it, remember how it ended.
stage() {
  local name=$1 limit=$2 left=$((total - SECONDS)) begin=$SECONDS status
  shift 2
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    status=skipped
  else
    timeout -k 5 "$limit" "$@" > "$out/$name.log" 2>&1
    status=$?
    [ $status -eq 124 ] && status=timeout
  fi
  printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - begin)) >> "$out/stages.tsv"
  echo "gpu_suite: $name: $([ "$status" = 0 ] && echo passed || echo "failed ($status)"), $((SECONDS - begin)) s"
}

build() {
  "$python" -m pip install --no-index --no-build-isolation --no-deps -e . || "$python" setup.py build_ext --inplace
}
export -f build
export python

C2F_CUDA=require C2F_CUDA_ARCHS=$arch stage build 170 bash -c build
stage tests 150 "$python" -m pytest python_tests -m cuda -q --maxfail=20 -p no:cacheprovider

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck initcheck synccheck; do # side by side: none of them is timed
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" 100 "$sanitizer" --tool $tool --error-exitcode 9 \
      "$python" -m pytest python_tests/ops/test_cuda_{kernels,hopper}.py python_tests/ops/test_*_cuda.py -m cuda -q -x -k "not repeats" -p no:cacheprovider &
  done
  wait
else
  printf 'sanitizer\tmissing\t0\n' >> "$out/stages.tsv"
fi

# An op more: its name here and in OPS of bench/gpu_suite.py. multilinear_pool ("bench") comes last and has what time is left.
for op in training_step falcon_loss class_attentive_supcon; do
  stage $op 60 "$python" -m bench.gpu_suite measure $op "$out/$op.json" --seconds 35
done
stage counters 75 "$python" -m bench.gpu_suite measure counters "$out/counters.json" --seconds 65
stage bench $((total - SECONDS - 15)) "$python" -m bench.gpu_suite measure bench "$out/bench.json" --seconds $((total - SECONDS - 45))
"$python" -m bench.gpu_suite report "$out"
! grep -qvP '\t(0|missing)\t' "$out/stages.tsv"
