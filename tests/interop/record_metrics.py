"""Records src/evaluate/testdata/metrics.json: the metrics of src/evaluate, computed by numpy and scipy on tiny sets, each the plain way.

usage: python tests/interop/record_metrics.py [FILE]        (needs numpy, scipy)
Paired errors by numpy's own median and percentile; sliced Wasserstein as the mean of scipy's 1-D distances; MMD^2_u by whole kernel matrices; precision,
recall, density and coverage by whole distance matrices, as in the authors' code (github.com/clovaai/generative-evaluation-prdc, prdc/prdc.py)."""
import json
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

K = 5
rng = np.random.default_rng(2024)


def paired(found, exact):
    errors = ((found - exact) ** 2).mean(1)
    roots = np.sqrt(errors)
    kept = np.sort(errors)[: len(errors) - len(errors) // 20]
    rmse = np.sqrt(errors.mean())
    return {"rmse": rmse, "median": np.median(roots), "p99": np.percentile(roots, 99), "trimmed": np.sqrt(kept.mean()), "psnr": 20 * np.log10(2 / rmse)}


def sliced(a, b, directions):
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return np.mean([wasserstein_distance(a @ u, b @ u) for u in units])


def kernel_distance(a, b):
    m, n, d = len(a), len(b), a.shape[1]
    kernel = lambda u, v: (u @ v.T / d + 1) ** 3
    within = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    assert m > 1 and n > 1
    return within(kernel(a, a)) + within(kernel(b, b)) - 2 * kernel(a, b).mean()


def overlap(real, found):
    radius = lambda x: np.sort(cdist(x, x), axis=1)[:, K]  # a point itself is the first
    between, real_radius, found_radius = cdist(real, found), radius(real), radius(found)
    return {
        "precision": (between < real_radius[:, None]).any(0).mean(),
        "recall": (between < found_radius[None]).any(1).mean(),
        "density": (between < real_radius[:, None]).sum(0).mean() / K,
        "coverage": (between.min(1) < real_radius).mean(),
    }


def numbers(x):
    return [float(v) for v in np.asarray(x).ravel()]


cases = []
for name, count, dims, change in [
    ("same distribution", 41, 12, lambda x: rng.normal(size=x.shape)),
    ("shifted", 40, 9, lambda x: x + 0.4),
    ("a fifth are copies", 35, 8, lambda x: np.concatenate([x[:7]] * 5)),
    ("narrow", 23, 3, lambda x: 0.5 * x + 0.1 * rng.normal(size=x.shape)),
]:
    # Numbers that float32 holds, so that both sides begin with the same.
    real = rng.normal(size=(count, dims)).astype(np.float32).astype(np.float64)
    found = change(real).astype(np.float32).astype(np.float64)
    directions = rng.normal(size=(6, dims)).astype(np.float32).astype(np.float64)
    case = {"name": name, "dims": dims, "real": numbers(real), "found": numbers(found), "directions": numbers(directions)}
    case |= {"paired": paired(found, real), "sliced_wasserstein": sliced(real, found, directions)}
    case |= {"kernel_distance": kernel_distance(real, found), "overlap": overlap(real, found)}
    cases.append(case)

default = Path(__file__).parents[2] / "src/evaluate/testdata/metrics.json"
Path(sys.argv[1] if len(sys.argv) > 1 else default).write_text(json.dumps(cases, default=float) + "\n")
