"""The table of README.md from a run's results: python3 benches/gpu/table.py results.json

Each row has our milliseconds, PyTorch's, and how many times as long PyTorch takes in its best mode."""
import json
import sys

MODES = ["eager", "graph", "compile", "compile+cudagraphs"]


def key(row):
    return row.get("model", row.get("what")), row["precision"], row["batch"]


def main(path):
    with open(path) as f:
        results = json.load(f)
    peers = {}
    for row in results.get("peers", []):
        if "mode" in row and "error" not in row:
            peers.setdefault(key(row), {})[row["mode"]] = row
    print("| what | precision | batch | fewstep | " + " | ".join(f"PyTorch {m}" for m in MODES) + " | times as fast as the best |")
    print("| --- " * (5 + len(MODES)) + "|")
    for metric, name in (("unet_ms", "{} evaluation"), ("sample4_ms", "{} 4-step sample"), ("ms", "{}")):
        for row in results["bench"]:
            theirs = {m: r[metric] for m, r in peers.get(key(row), {}).items() if metric in r}
            if metric in row and theirs:
                cells = [f"{theirs[m]:.2f}" if m in theirs else "–" for m in MODES]
                print("|", " | ".join([name.format(key(row)[0]), row["precision"], str(row["batch"]), f"**{row[metric]:.2f}**", *cells, f"{min(theirs.values()) / row[metric]:.2f}"]), "|")


main(sys.argv[1])
