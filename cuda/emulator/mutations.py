#!/usr/bin/env python3
"""Do the checks notice a broken kernel? Plants bugs one by one in a copy of cuda/, rebuilds, and requires the named check of each to fail.

    mutations.py ROOT SUITE [NAME ...]

ROOT: the repository, in which `make -C cuda/emulator test libcuda` and `make -C cuda/emulator libcuda SANITIZE=thread` have been run. SUITE: the built
test binary of tests/cuda.rs. Names: these bugs alone, without writing anything; else all, and cuda/emulator/MUTATIONS.md anew. Exits with 1 if one is not
caught.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

# What was planted, file, text, replacement, program, and the check that must fail. `suite` is tests/cuda.rs, `overlap` the same with launches that overlap,
# `races` the same under ThreadSanitizer, which must report a race; all others are cuda/emulator/test.
BUGS = [
    ("halo reaches one row too far", "parts/conv_product.cuh", "fs::min(size - first, taps)", "fs::min(size - first + 1, taps)", "conv2d", "f32, odd shapes"),
    ("no barrier between copy and multiplication", "parts/pipeline.cuh", "    fs::sync_threads();\n", "", "conv2d", "f16, odd shapes"),
    ("waits for one copy too few", "parts/pipeline.cuh", "copy_async_wait<kStages - 2>", "copy_async_wait<kStages - 1>", "conv2d", "f16, odd shapes"),
    ("copy is not committed", "parts/pipeline.cuh", "    fs::copy_async_commit();\n    const", "    const", "conv2d", "f32, odd shapes"),
    ("fragments of b exchanged", "parts/tile_product.cuh", "{right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]}", "{right[j / 2][j % 2], right[j / 2][j % 2 + 2]}", "conv2d", "bf16, odd shapes"),
    ("first slice of split-K left out", "parts/conv_forward.cuh", "for (int first = 0; first < slices;", "for (int first = 1; first < slices;", "conv2d", "f32, odd shapes"),
    ("block counter is not cleared", "parts/last_block.cuh", "    if (arrived[0] == uint32_t(count)) *counter = 0;  // for the next launch\n", "", "conv2d", "f32, odd shapes"),
    ("rows past the last pixel are stored", "parts/conv_product.cuh", "if (m < pixels_of(w)) store(", "store(", "conv2d", "f32, odd shapes"),
    ("sums overwrite stages that are still read", "parts/conv_product.cuh", "  fs::sync_threads();\n  float* tile", "  float* tile", "conv2d", "f16, odd shapes"),
    ("padding is fetched instead of zeroed", "parts/chunk.cuh", "exists ? 16 : 0", "exists ? 16 : 8", "conv2d", "f32, odd shapes"),
    ("second half of a stage's depth looked for in the next chunk", "parts/tile_product.cuh", "(lane.row ^ k)", "(lane.row + k)", "conv2d", "f16, odd shapes"),
    ("addend of the wrong image", "parts/conv_output.cuh", "e.addend + (image * e.channels", "e.addend + ((image + 1) * e.channels", "conv2d", "f32, odd shapes"),
    ("first pixel of a parity negative", "parts/conv_shape.cuh", "  if (first < 0) first += stride;\n", "", "conv2d", "f32, odd shapes"),
    ("last pixels of the weight gradient left out", "conv2d_weight_grad.cu", "(pixels + P::kDepth - 1) / P::kDepth", "pixels / P::kDepth", "conv2d", "f32, odd shapes"),
    ("channels normalised before all scales are there", "parts/conv_norm.cuh", "n.scale, n.shift);\n  fs::sync_threads();", "n.scale, n.shift);", "conv_norm", "f16, shapes"),
    ("padding is normalised too", "parts/conv_norm.cuh", "if (!is_inside(copies, bits, i)) continue;", "if (!bits) continue;", "conv_norm", "f16, shapes"),
    ("variance of the means left out", "parts/group_moments.cuh", "variance += fs::fma(own.mean - mean, own.mean - mean, own.variance)", "variance += own.variance", "conv_norm", "f32, shapes"),
    ("pieces of another image merged", "parts/conv_moments.cuh", "(image * tiles * channels + channel) * 2", "(channel) * 2", "conv_norm", "f32, shapes"),
    ("a column's threads read sums that are not there yet", "parts/conv_moments.cuh", "x * 4, own);\n  fs::sync_threads();", "x * 4, own);", "conv_norm", "f32, shapes"),
    ("m16n8k8 pair of sm_75 multiplies the first half of b twice", "device/mma.cuh", "d, a[2], a[3], b[1] FEWSTEP", "d, a[2], a[3], b[0] FEWSTEP", "conv2d", "f16, odd shapes"),
    ("pieces of a group merged with the wrong weight", "group_norm.cu", "piece_positions(norm, i) * group_channels * away * away", "piece_positions(norm, i) / group_channels * away * away", "norm", "f32"),
    ("no barrier before a group is summed", "group_norm.cu", "(own));\n  fs::sync_threads();\n", "(own));\n", "norm", "f32"),
    ("ragged end of a slab is summed too", "parts/norm_slab.cuh", "if (i < count) sum.v[i] += term.v[i];", "if (i <= count) sum.v[i] += term.v[i];", "norm", "f32"),
    ("gradient by the wrong group's mean", "group_norm_grad.cu", "rstd * rstd * s2[g]", "rstd * rstd * s2[s.groups - 1 - g]", "norm", "f32"),
    ("channels of the second value counted from the first one's", "parts/group_moments.cuh", "sample.second + after * 2", "sample.second + channel * 2", "norm", "f32"),
    ("pixels of the second tensor as far apart as the first's", "parts/sources.cuh", "second ? channels - s.first_channels : s.first_channels", "second ? channels : s.first_channels", "conv2d", "f16, odd shapes"),
    ("channels of the second tensor counted from the first's", "parts/sources.cuh", "second ? after : channel", "channel", "norm", "f32"),
    ("scales read before all are there", "group_norm.cu", "shifts, results);\n  fs::sync_threads();\n", "shifts, results);\n", "norm", "f16"),
    ("last kept row is not loaded", "group_norm.cu", "if (at < s.end && s.column < s.width) rows", "if (at < s.end - 1 && s.column < s.width) rows", "norm", "bf16"),
    ("runs of a ragged slab moved whole", "parts/norm_slab.cuh", "&& s.width % kRun<T> == 0", "&& s.width > 0", "norm", "f16"),
    ("a quotient that f32 rounds to a tie is taken for one", "parts/rounding.cuh", "away != 0.5f && away != -0.5f", "away != 2.0f", "suite", "conformance::quantize"),
    ("the channel after the last of a run of eight", "quantize.cu", "f(i, channel_of(cut, at + i))", "f(i, channel_of(cut, at))", "suite", "conformance::quantize"),
    ("an end of the range is beyond it", "quantize.cu", "if (number > p)", "if (number >= p)", "suite", "conformance::quantize"),
    ("a part's columns counted from the wrong part", "shape.cu", "column -= parts.width[i];", "column -= parts.width[0];", "suite", "conformance::shapes"),
    ("rows of a doubled image overlap", "resample.cu", "int64_t(p.row) * 2 * width + p.column) * 2 * channels + p.channel);\n  T* bottom", "int64_t(p.row) * width + p.column) * 2 * channels + p.channel);\n  T* bottom", "suite", "conformance::resample"),
    ("edges of a ragged tile exchanged", "transpose.cu", "if (to < columns && row + lane < rows)", "if (to < rows && row + lane < columns)", "suite", "conformance::transpose"),
    ("rows past a head's last are stored", "head_product.cu", "if (row + r < p.rows && column + c < p.columns) y", "if (column + c < p.columns) y", "suite", "conformance::head_product"),
    ("softmax sum not brought to the new maximum", "attention.cu", "    rows.sum[i] *= factor[i];\n", "", "attention", "f32"),
    ("keys overwritten while they are read", "attention.cu", "      if (c * W >= h.width) break;\n      fs::sync_threads();\n", "      if (c * W >= h.width) break;\n", "attention", "f32"),
    ("keys past the last token have weight", "attention.cu", "scores[i][j] = there ? scores[i][j] * h.scale : minus_infinity();", "scores[i][j] = there ? scores[i][j] * h.scale : 0.0f;", "attention", "f32"),
    ("output not brought to the new maximum", "attention_tensor.cu", "  FEWSTEP_UNROLL\n  for (int i = 0; i < P::kOut / 2; i++) rows.out[i / 4][i % 4] *= factor[i % 4 / 2];\n", "", "attention", "f16 on tensor cores"),
    ("keys past the last token have weight on tensor cores", "attention_tensor.cu", "? score * scale : minus_infinity();", "? score * scale : 0.0f;", "attention", "f16 on tensor cores"),
    ("values of eight keys and of eight channels exchanged", "attention_tensor.cu", "left[2] = {values[0], values[1]}, right[2] = {values[2], values[3]}", "left[2] = {values[0], values[2]}, right[2] = {values[1], values[3]}", "attention", "bf16 on tensor cores"),
    ("queries of another warp", "attention_tensor.cu", "first = P::kSplit ? 0 : int(fs::warp()) * kWarpQueries", "first = P::kSplit ? 0 : int(fs::warp() ^ 1) * kWarpQueries", "attention", "f16 on tensor cores"),
    ("a warp's stage overwritten while others of its lanes read it", "attention_tensor.cu", "    fs::sync_warp();\n  } else", "  } else", "attention", "f16 on tensor cores"),
    ("sums of split keys merged without their maxima", "attention_tensor.cu", "fs::fast_exp(maxima[w * kWarpQueries + row] - top)", "1.0f", "attention", "f16 on tensor cores"),
    ("Philox key raised by the wrong Weyl word", "random.cu", "key1 += 0xBB67AE85u", "key1 += 0x9E3779B9u", "suite", "conformance::random"),
    ("one partial sum read before it is written", "reduce.cu", "= sum;\n  fs::sync_threads();\n  if (fs::warp() == 0", "= sum;\n  if (fs::warp() == 0", "suite", "conformance::reduce"),
    ("last element of a piece is not updated", "optimizer.cu", "i < piece.length; i += kThreads) {\n    const float grad", "i < piece.length - 1; i += kThreads) {\n    const float grad", "suite", "conformance::optimizer"),
    ("a tall matrix read as a wide one", "muon.cu", "from[m.tall ? column * m.n + row : row * m.k + column]", "from[row * m.k + column]", "suite", "conformance::muon"),
    ("half of a symmetric product is not mirrored", "muon.cu", "if (tile.row != tile.column && row", "if (tile.row > tile.column && row", "suite", "conformance::muon"),
    ("the norm of the first piece for that of the matrix", "muon.cu", "i < m.pieces; i += kThreads) {\n    const float part", "i < 1; i += kThreads) {\n    const float part", "suite", "conformance::muon"),
    ("a quotient next to a tie taken for one", "parts/rounding.cuh", "return side == 0 ? nearest", "return side != 2 ? nearest", "suite", "conformance::quantize"),
    ("what zero points sum to stays in the sums", "parts/staged.cuh", " - q.correction[i]), q.factor[i]", "), q.factor[i]", "suite", "conformance::conv2d_quantized"),
    ("padding of whole numbers is the least and not what stands for 0", "parts/staged.cuh", "exists ? source : s.padding, true", "s.padding ? source : source, exists", "suite", "conformance::conv2d_quantized"),
    ("a run's share of the second value counted from the run's start", "stage_conv.cu", "(s.channels - x.first_channels) - left", "(s.channels - x.first_channels)", "suite", "conformance::conv2d_quantized"),
    ("scales of the wrong channels", "quantize.cu", "at / c.inner % c.channels", "at % c.channels", "suite", "conformance::quantize"),
    ("gather off by one element", "gather.cu", "rows)) * row + at % row];\n}\n\n// The same", "rows)) * row + (at + 1) % row];\n}\n\n// The same", "suite", "conformance::gather"),
    ("one kernel does not wait for the launch before", "combine.cu", "fs::thread_in_grid(fs::begin(), kThreads)", "fs::thread_in_grid(fs::this_block(), kThreads)", "overlap", "conformance::combine"),
    ("sums of the launch before read before they are there", "optimizer.cu", "  fs::begin();\n  float sum = 0;", "  float sum = 0 * partial[0];\n  fs::begin();", "overlap", "conformance::optimizer"),
    ("result written while the launch before may read it", "shape.cu", "{ copy(fs::begin(), x, y, units); }", "{ store_unit(y, T{}); copy(fs::begin(), x, y, units); }", "overlap", "conformance::optimizer"),
]

BARRIER = "fs::sync_threads();"
# The op tables are tests named after files in cuda/, by their first word; these parts have other names.
OPS = {"last": "conv", "pipeline": "conv", "pack": "conv"}
# Those that no op table leads to.
OTHERS = {"stage": "quantized::norms_are_done_on_the_way"}

# Launches overlap on GPUs that can do that, where they are asked to.
OVERLAP = {"FEWSTEP_EMU_ARCHITECTURE": "90", "FEWSTEP_CUDA_OVERLAP": "1"}

TIME_LIMIT = 900


def barriers(cuda):
    """A bug for each barrier in the kernels: without it there must be a race."""
    for path in sorted([*cuda.glob("*.cu"), *cuda.glob("parts/*.cuh")]):
        source = path.read_text()
        ends = [m.end() for m in re.finditer(re.escape(BARRIER), source)]
        for number, end in enumerate(ends, 1):
            start = end - len(BARRIER)
            while source.count(source[start:end]) > 1:
                start = source.rindex("\n", 0, start)
            text, word = source[start:end], re.split("[_.]", path.name)[0]
            yield f"no barrier {number} in {path.name}", str(path.relative_to(cuda)), text, text.removesuffix(BARRIER), "races", OTHERS.get(word, f"conformance::{OPS.get(word, word)}")


class Undecided(Exception):
    """Neither caught nor survived: the bug does not compile, say."""


def run(command, environment=os.environ):
    """Runs a command to its end; returns it with what it printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            raise Undecided(f"{command[0]} took longer than {TIME_LIMIT} s") from None
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def make(cuda, *targets):
    """Builds in the copy."""
    done = run(["make", "-s", "-C", str(cuda / "emulator"), *targets])
    if done.returncode:
        raise Undecided(f"make {' '.join(targets)} failed:\n{done.stderr[-3000:]}")


def races(work, check, suite, manifest):
    """The check with the first race that is reported in its tests."""
    make(work / "cuda", "libcuda", "SANITIZE=thread")
    done = run([work / "cuda/emulator/test/suite_races", work / "target/emulator-thread", manifest, suite, check])
    found = re.search(r"^SUMMARY: ThreadSanitizer: (data race .*)$", done.stdout, re.M)
    if bool(found) != (done.returncode != 0):
        raise Undecided(f"the tests ended with {done.returncode}, yet the race found is {found and found[1]}\n{done.stdout[-3000:]}")
    return {check: found[1]} if found else {}


def failures(work, program, suite, manifest, check):
    """The names of the checks that fail, with what they say; of the suite the one that must, and all of them only where that one does not."""
    built = work / "target/emulator"
    if program in ("suite", "overlap"):
        make(work / "cuda", "libcuda")
        environment = os.environ | {"LD_LIBRARY_PATH": str(built), "FEWSTEP_EMU_MANIFEST": str(manifest)} | (OVERLAP if program == "overlap" else {})
        commands = [[suite, which, "--test-threads=1"] for which in (check, "conformance")]
        pattern = r"^---- (?P<name>\S+) stdout ----\n\n.* panicked at .*\n(?:\d+ failures .*\n)?(?P<why>.*)$"
    else:
        binary = {"norm": "test_group_norm"}.get(program, f"test_{program}")
        make(work / "cuda", f"../../target/emulator/{binary}")
        environment, commands = os.environ, [[str(built / binary)]]
        pattern = r"^\S+\s+(?P<name>.*?)\s+FAILED\s+[\d.]+ ms: (?P<why>.*)$"
    for command in commands:
        done = run(command, environment)
        found = {m["name"]: m["why"] for m in re.finditer(pattern, done.stdout, re.M)}
        if bool(found) != (done.returncode != 0):
            raise Undecided(f"{command[0]} ended with {done.returncode}, yet these failed: {list(found)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if found:
            break
    return found


def plant(work, bug):
    """Writes one bug into the copy."""
    _, file, text, replacement, _, _ = bug
    path = work / "cuda" / file
    original = path.read_text()
    if original.count(text) != 1:
        raise Undecided(f"cuda/{file} has the text {original.count(text)} times, not once: {text!r}")
    path.write_text(original.replace(text, replacement))


def fresh(root, built):
    """A copy as it was, objects included, so that only what a bug touches is built."""
    (root / "target/mutations").mkdir(exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(dir=root / "target/mutations"))
    for part in ("cuda", built):
        shutil.copytree(root / part, work / part)
    return work


def judge(root, suite, bug):
    """The bug's row for the table, or nothing if it is not seen to be caught; says which."""
    what, file, _, _, program, check = bug
    work = fresh(root, "target/emulator-thread" if program == "races" else "target/emulator")
    manifest = root / "target/cuda/manifest.txt"
    try:
        plant(work, bug)
        failed = races(work, check, suite, manifest) if program == "races" else failures(work, program, suite, manifest, check)
    except Undecided as reason:
        print(f"UNDECIDED {what}: {reason}", flush=True)
        return None
    finally:
        shutil.rmtree(work)
    caught = next((name for name in failed if name.startswith(check)), None)
    if not caught:
        print(f"SURVIVED  {what}; failed instead: {list(failed)}", flush=True)
        return None
    print(f"caught    {what}: {caught}", flush=True)
    why = re.sub(r"0x[0-9a-f]{6,}", "0x…", failed[caught]).replace("|", "\\|")
    return f"| {what} | `cuda/{file}` | {program}: {caught} | {why} |"


def main():
    root, suite, names = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]
    bugs = [*BUGS, *barriers(root / "cuda")]
    if unknown := set(names) - {bug[0] for bug in bugs}:
        sys.exit(f"no such bug: {unknown}")
    chosen = [bug for bug in bugs if not names or bug[0] in names]
    shutil.rmtree(root / "target/mutations", ignore_errors=True)
    # Most of the time a compiler works on a single file: one bug a processor.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(lambda bug: judge(root, suite, bug), chosen))
    if missing := [bug[0] for bug, row in zip(chosen, rows) if not row]:
        sys.exit(f"{len(missing)} of {len(chosen)} bugs survived or are undecided: {missing}")
    if not names:
        write_table(root / "cuda/emulator/MUTATIONS.md", rows)


def write_table(path, rows):
    head = (
        "# Planted bugs and what catches them\n"
        "Written by `make mutations` (cuda/emulator/mutations.py): each bug is planted alone in a copy of the kernels, and the check beside it must fail.\n\n"
        "| bug | file | check | its first complaint |\n| --- | --- | --- | --- |\n"
    )
    new = path.with_suffix(".new")
    new.write_text(head + "\n".join(rows) + "\n")
    new.rename(path)


main()
