"""Records four steps of Muon in float64: tests/golden/data/muon.safetensors.

usage: python tests/interop/record_muon.py [FILE]        (default tests/golden/data/muon.safetensors; needs numpy and safetensors)
The update is Keller Jordan's (https://kellerjordan.github.io/posts/muon/, github.com/KellerJordan/Muon: momentum 0.95, Nesterov, 5 steps, step times
sqrt(max(1, rows / columns)), decoupled weight decay), but for two things: float64 instead of bfloat16, and nothing is added to the norm. The iteration is not
run: as it changes singular values alone, U p(p(p(p(p(S / |S|))))) V^T of a singular value decomposition is what it gives. For each matrix i of [O, K]:
`init.i`, `grad.i.k`, and after step k `param.i.k`, `momentum.i.k` and `direction.i.k`. lr 0.02, weight decay 0.1, gradient scale 0.5."""
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

A, B, C = 3.4445, -4.7750, 2.0315
LR, DECAY, MOMENTUM, SCALE, STEPS = 0.02, 0.1, 0.95, 0.5, 4
SHAPES = [(8, 3, 3, 3), (10, 4), (4, 10), (6, 6), (1, 7)]


def orthogonal(x):
    u, s, v = np.linalg.svd(x.reshape(x.shape[0], -1), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = A * s + B * s**3 + C * s**5
    return ((u * s) @ v).reshape(x.shape), s


def main():
    file = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/data/muon.safetensors")
    random, tensors, values = np.random.default_rng(20), {}, []
    for i, shape in enumerate(SHAPES):
        p, m = random.standard_normal(shape), np.zeros(shape)
        p = np.float64(np.float32(p))
        tensors[f"init.{i}"] = p
        for k in range(STEPS):
            g = np.float64(np.float32(random.standard_normal(shape)))
            m = MOMENTUM * m + SCALE * g
            direction, s = orthogonal(SCALE * g + MOMENTUM * m)
            rows, columns = shape[0], int(np.prod(shape[1:]))
            p = p * (1 - LR * DECAY) - LR * max(1, rows / columns) ** 0.5 * direction
            values.extend(s)
            tensors |= {f"grad.{i}.{k}": g, f"param.{i}.{k}": p, f"momentum.{i}.{k}": m, f"direction.{i}.{k}": direction}
    print(f"singular values {min(values):.3f} to {max(values):.3f}")
    save_file({name: np.ascontiguousarray(t, dtype=np.float32) for name, t in tensors.items()}, file)


main()
