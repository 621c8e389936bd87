#!/usr/bin/env bash
# Checks and times fewstep on this machine's first GPU; needs a driver, no Rust.  usage: run.sh [OUT_DIR [STAGE...]]
#
# Writes OUT_DIR/results.json anew after each stage, log.txt with all that was printed, micro.json, bench.json, overlap.json, peers.json, profile.csv and samples.png.
# Ends within 8 minutes, or $FEWSTEP_GPU_SECONDS: what has no time left is reported as failed.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:-results}"
out=$(cd "${1:-results}" && pwd)
stages=${*:2}
cd "$here" || exit 1
LIMIT=${FEWSTEP_GPU_SECONDS:-470}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tar -xzf bin.tar.gz -C "$scratch" || exit 1
bin=$scratch/bin
export FEWSTEP_TEST_SCRATCH=$scratch FEWSTEP_GOLDEN_DEVICE=cuda
rows=() failed=0
: >"$out/log.txt"

text() { printf '%s' "$1" | tr -cd '[:print:]' | tr -d '"\\'; }
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)

write_results() {
  local separator='' row
  {
    printf '{\n  "gpu": "%s",\n  "commit": "%s",\n  "date": "%s",\n  "seconds": %d,\n  "stages": [' "$(text "${gpu:-unknown}")" "$(<commit)" "$(date -u +%F)" $SECONDS
    for row in "${rows[@]}"; do
      printf '%s\n    %s' "$separator" "$row"
      separator=,
    done
    printf '\n  ]'
    for row in micro bench overlap peers; do
      if [[ -s $out/$row.json ]]; then
        printf ',\n  "%s": ' $row
        cat "$out/$row.json"
      fi
    done
    printf '\n}\n'
  } >"$scratch/results.json"
  mv "$scratch/results.json" "$out/results.json"
}

# stage <name> <most seconds> <command...>: the last line that it prints is its summary. A command that ends with $SKIPPED lacks what it needs, which is
# no failure: "passed" is null then.
SKIPPED=77
stage() {
  local name=$1 most=$2 start=$SECONDS passed=true
  shift 2
  [[ -z $stages || " $stages " == *" $name "* ]] || return 0
  local left=$((LIMIT - SECONDS))
  ((most > left)) && most=$left
  echo "== $name ==" >>"$out/log.txt"
  rm -f "$out/$name.json" # of an earlier run
  if ((most < 1)); then
    echo "no time left" >"$scratch/stage"
    passed=false
  else
    timeout -k 5 "$most" bash -c '"$@"' stage "$@" >"$scratch/stage" 2>&1
    case $? in 0) ;; $SKIPPED) passed=null ;; *) passed=false ;; esac
  fi
  cat "$scratch/stage" >>"$out/log.txt"
  [[ $passed != false ]] || failed=1
  local summary
  summary=$(grep -v '^[[:space:]]*$' "$scratch/stage" | tail -1 | cut -c1-300)
  rows+=("{\"name\": \"$name\", \"passed\": $passed, \"seconds\": $((SECONDS - start)), \"summary\": \"$(text "$summary")\"}")
  printf '%-12s %s %4d s  %s\n' "$name" "$(case $passed in true) echo ok ;; null) echo skipped ;; *) echo FAILED ;; esac)" $((SECONDS - start)) "$summary"
  [[ $passed != false ]] || tail -n 30 "$scratch/stage"
  write_results
}

instructions() {
  FEWSTEP_GPU_KERNELS=kernels/fragments.fatbin "$bin/fragments" && FEWSTEP_GPU_KERNELS=kernels/arithmetic.fatbin "$bin/arithmetic" && echo "both programs passed"
}

# The same rows with launches that overlap. Here first, where they are made: on a GPU that computed wrong, times would mean nothing.
overlap() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1)
  [[ -n $capability && ${capability%%.*} -ge 9 ]] || { echo "needs compute capability 9.0, found ${capability:-none}"; return "$SKIPPED"; }
  FEWSTEP_CUDA_OVERLAP=1 "$bin/cuda" --test-threads=1 conformance networks && FEWSTEP_CUDA_OVERLAP=1 "$bin/bench" all "$out/overlap.json"
}

demo() {
  "$bin/distill_digits" examples-c/data "$scratch" cuda && cp "$scratch/samples.png" "$out/"
}

peers() {
  [[ -d wheels ]] && python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" wheels/*.whl
  PYTHONPATH=$scratch/site python3 -c 'import torch, diffusers; assert torch.cuda.is_available()' || { echo "no torch with CUDA, or no diffusers"; return "$SKIPPED"; }
  PYTHONUNBUFFERED=1 PYTHONPATH=$scratch/site:. python3 peers.py "$out/peers.json" "$peers_seconds"
}

# Durations of every kernel of an evaluation and of a training step, where Nsight Compute is installed.
profile() {
  local ncu of
  ncu=$(command -v ncu) || { echo "no ncu"; return "$SKIPPED"; }
  for of in "once student_s 1 f16" "step 64 bf16" "once cifar_teacher 256 f16"; do
    echo "# $of"
    # shellcheck disable=SC2086
    "$ncu" --clock-control none --cache-control none --graph-profiling node --csv --print-units base --page raw \
      --metrics gpu__time_duration.sum,launch__grid_size "$bin/bench" $of 2>&1 |
      python3 -c '
import csv, sys
rows = [r for r in csv.reader(l for l in sys.stdin if l.startswith("\"")) if len(r) > 10]
if not rows: sys.exit("ncu printed no rows")
names = rows[0]
at = [names.index(n) for n in ("Kernel Name", "launch__grid_size", "gpu__time_duration.sum")]
for r in rows[2:]: print(",".join(r[i].replace(",", "") for i in at))' || return 1
  done >"$out/profile.csv"
  wc -l "$out/profile.csv"
}

export -f instructions overlap demo peers profile # for the shell that has the time limit
export out scratch bin SKIPPED
write_results
stage micro 60 "$bin/micro" kernels/portable.fatbin kernels/hopper.fatbin --out "$out/micro.json"
stage instructions 30 instructions
stage conformance 150 "$bin/cuda" --test-threads=1
stage golden 90 "$bin/golden" --test-threads=1
stage devices 60 "$bin/compare_devices" examples-c/data
stage demo 60 demo
stage bench 150 "$bin/bench" all "$out/bench.json"
stage overlap 60 overlap
stage profile 90 profile
# A row that is begun in time may take another minute to compile.
export peers_seconds=$((LIMIT - SECONDS - 70))
stage peers $((peers_seconds + 60)) peers
exit $failed
