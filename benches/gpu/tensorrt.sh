#!/usr/bin/env bash
# Builds and times ONNX files of fewstep with TensorRT's own trtexec, on a machine that has it: tensorrt.sh FILE.onnx … (profile "symmetric").
# UNTESTED: no machine of this project has had TensorRT. What is tested without a GPU is that TensorRT-RTX parses and builds such files (make test-interop).
set -euo pipefail
command -v trtexec >/dev/null || { echo "trtexec is not on the path: it comes with TensorRT (tar or .deb, not with pip)"; exit 1; }
(($#)) || { echo "usage: $0 FILE.onnx …"; exit 2; }
for file in "$@"; do
  # Every input but the step's number has the batch first; its other dimensions are the file's.
  shapes() { # BATCH
    python3 - "$file" "$1" <<'PYTHON'
import sys
import onnx
inputs = onnx.load(sys.argv[1], load_external_data=False).graph.input
dims = lambda i: "x".join(str(d.dim_value) if d.HasField("dim_value") else sys.argv[2] for d in i.type.tensor_type.shape.dim)
print(",".join(f"{i.name}:{dims(i)}" for i in inputs))
PYTHON
  }
  for batch in 1 16; do
    echo "== $file, batch $batch =="
    trtexec --onnx="$file" --stronglyTyped --minShapes="$(shapes 1)" --optShapes="$(shapes "$batch")" --maxShapes="$(shapes 64)" --shapes="$(shapes "$batch")" \
      --useCudaGraph --noDataTransfers --useSpinWait --dumpLayerInfo --profilingVerbosity=detailed | grep -E "mean =|median =|Int8|ERROR|PASSED|FAILED"
  done
done
