"""The lines of a metrics.jsonl without what depends on the clock. usage: python3 metrics.py FILE"""
import json
import sys

for text in open(sys.argv[1]):
    line = json.loads(text)
    for key in ("time", "samples_per_second"):
        line.pop(key, None)
    print(json.dumps(line, sort_keys=True))
