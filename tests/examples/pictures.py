"""A folder of small PNG pictures in two classes, discs and stripes, and a file that is no picture.

usage: python3 pictures.py FOLDER
"""
import math
import os
import random
import struct
import sys
import zlib

SIDE = 20


def png(pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(c for pixel in row for c in pixel) for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def disc(rng):
    x, y, r = rng.uniform(7, 12), rng.uniform(7, 12), rng.uniform(3, 7)
    return lambda i, j: math.hypot(i - y, j - x) < r


def stripes(rng):
    period, phase = rng.uniform(3, 8), rng.uniform(0, 8)
    return lambda i, j: (j + phase) % period < period / 2


def main(folder):
    rng = random.Random(1)
    for name, shape in [("discs", disc), ("stripes", stripes)]:
        os.makedirs(os.path.join(folder, name))
        for n in range(60):
            ink, paper, inside = [rng.randrange(256) for _ in range(3)], [rng.randrange(256) for _ in range(3)], shape(rng)
            pixels = [[ink if inside(i, j) else paper for j in range(SIDE)] for i in range(SIDE)]
            with open(os.path.join(folder, name, f"{n:03}.png"), "wb") as f:
                f.write(png(pixels))
    with open(os.path.join(folder, "discs", "notes.png"), "wb") as f:
        f.write(b"no picture")


if __name__ == "__main__":
    main(sys.argv[1])
