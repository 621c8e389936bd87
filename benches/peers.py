"""fewstep beside OpenVINO, PyTorch and diffusers on this machine's CPU, in one run: ratios to quote.

usage: make bench-peers PYTHON=venv/bin/python      (pip: torch diffusers safetensors openvino nncf onnx onnxscript onnxruntime)
The programs take turns, each for a short burst, as a sampler evaluates a network over and over; a burst's first run, whose caches are cold and beside which the
threads of the program before may still spin, is not counted. Figures are medians, with the minima behind them. Same weights, two threads each. Whole numbers:
ours from fewstep_quantize, OpenVINO's from NNCF, on whatever instruction set each finds; FEWSTEP_ISA and ONEDNN_MAX_CPU_ISA lower them (avx2 and AVX2, avx_vnni
and AVX2_VNNI, avx512_vnni and AVX512_CORE_VNNI, amx and AVX512_CORE_AMX)."""
import ctypes as C
import copy
import json
import os
import statistics
import sys
import tempfile
import time

import header

try:
    import nncf
    import numpy as np
    import onnxruntime
    import openvino
    import torch
    import torch.nn.functional as F
    from diffusers import DDIMScheduler, UNet2DModel
except ImportError as e:
    sys.exit(f"bench-peers needs torch, diffusers, openvino, nncf, onnx, onnxscript and onnxruntime: {e}")

THREADS = 2
lib = C.CDLL(str(header.LIBRARY))
lib.fewstep_last_error.restype = C.c_char_p


def check(status):
    if status:
        sys.exit(lib.fewstep_last_error().decode())


STRUCTS = header.structs()


def options(name):
    """Default options of the header's struct of this name."""
    return header.defaults(STRUCTS[name], getattr(lib, f"{name}_init"), check)


class Times:
    """What programs that take turns took, in ms."""

    def __init__(self, programs, rounds, burst):
        times = {name: [] for name in programs}
        for round in range(rounds + 1):  # the first warms up
            for name, run in programs.items():
                for i in range(burst + 1):
                    start = time.perf_counter()
                    run()
                    if i and round:
                        times[name].append(1e3 * (time.perf_counter() - start))
        self.median = {name: statistics.median(t) for name, t in times.items()}
        self.least = {name: min(t) for name, t in times.items()}

    def ratio(self, ours, *peers):
        """Of `ours` over the best of `peers`, for people: that of medians, and of minima."""
        median, least = (kind[ours] / min(kind[peer] for peer in peers) for kind in (self.median, self.least))
        return f"{median:.2f} ({least:.2f})"

    def report(self, title):
        print(f"{title}, ms: " + ", ".join(f"{n} {m:.2f} ({self.least[n]:.2f})" for n, m in self.median.items()), flush=True)


torch.set_num_threads(THREADS)
torch.manual_seed(0)
runtime_options = options("fewstep_runtime_options")
runtime_options.threads = THREADS
runtime = C.c_void_p()
check(lib.fewstep_runtime_create(C.byref(runtime_options), C.byref(runtime)))


def processor():
    """What this processor has of the sets that kernels for bytes are made of."""
    flags = open("/proc/cpuinfo").read().split()
    return [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16") if flag in flags]


F32, BF16 = 0, 2


def sampler_of(model, batch, noise, precision=F32):
    """One step from t = 999 to clean data: what runs it, and what reads the result."""
    o = options("fewstep_sampler_options")
    o.kind, o.spacing, o.clip, o.set_alpha_to_one, o.steps, o.batch = 1, 2, 0, 1, 1, batch
    o.precision = precision
    sampler = C.c_void_p()
    check(lib.fewstep_sampler_create(runtime, model, C.byref(o), C.byref(sampler)))
    begin = options("fewstep_begin_options")
    begin.noise, begin.noise_count = noise.ctypes.data, noise.size

    def run():
        check(lib.fewstep_sampler_begin(sampler, C.byref(begin)))
        check(lib.fewstep_sampler_run(sampler, None, None, None))

    def read():
        out = np.empty_like(noise)
        check(lib.fewstep_sampler_read(sampler, out.ctypes.data_as(C.c_void_p), C.c_size_t(out.size)))
        return out

    return sampler, run, read


def device():
    """What the library says of this processor."""
    info = STRUCTS["fewstep_device_info"](struct_size=C.sizeof(STRUCTS["fewstep_device_info"]))
    check(lib.fewstep_device_get_info(0, 0, C.byref(info)))
    return info


def instructions():
    return device().instructions.decode()


def multiplies_bf16():
    """Whether this processor's samplers can."""
    return bool(device().precisions >> BF16 & 1)


def in_bytes(model):
    """The same network in whole numbers, as a student of one step."""
    student, whole = C.c_void_p(), C.c_void_p()
    o = options("fewstep_student_options")
    o.prediction, o.copy_weights, o.steps = 1, 1, 1
    check(lib.fewstep_model_derive_student(runtime, model, C.byref(o), C.byref(student)))
    check(lib.fewstep_quantize(runtime, student, None, None, None, C.byref(whole)))
    return whole


def exported(model, path, profile=1):
    """One evaluation as the library's own ONNX file."""
    o = options("fewstep_onnx_options")
    o.program, o.profile = 1, profile
    check(lib.fewstep_model_export_onnx(model, C.byref(o), path.encode()))
    return path


def in_onnxruntime(path):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def evaluation():
    """student_s of the peers' table: 4.44 M parameters, 1.98 GFLOP an evaluation."""
    net = UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(64, 128, 128), down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=32, norm_num_groups=32).eval()
    folder = tempfile.mkdtemp()
    net.save_pretrained(folder)
    model = C.c_void_p()
    check(lib.fewstep_model_open(runtime, folder.encode(), C.byref(model)))
    whole = in_bytes(model)
    sizes = []
    for path, save in (("f32.safetensors", model), ("int8.safetensors", whole)):
        check(lib.fewstep_model_save_file(save, f"{folder}/{path}".encode()))
        sizes.append(os.path.getsize(f"{folder}/{path}"))
    print(f"this processor has {', '.join(processor())}; fewstep computes on {instructions()}; FEWSTEP_ISA={os.environ.get('FEWSTEP_ISA', '')} ONEDNN_MAX_CPU_ISA={os.environ.get('ONEDNN_MAX_CPU_ISA', '')}")
    print(f"file of int8 over f32: {sizes[1] / sizes[0]:.3f}")

    class Plain(torch.nn.Module):
        def forward(self, x, t):
            return net(x, t, return_dict=False)[0]

    for batch in (1, 16):
        x, t = torch.randn(batch, 3, 32, 32), torch.full((batch,), 999)
        onnx = f"{folder}/{batch}.onnx"
        with torch.no_grad():
            torch.onnx.export(Plain(), (x, t), onnx, input_names=["x", "t"], output_names=["eps"], dynamo=True)
            expected = net(x, t, return_dict=False)[0].numpy()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
        core = openvino.Core()
        compiled = core.compile_model(onnx, "CPU", settings)
        feed = {"x": x.numpy(), "t": t.numpy()}
        calibration = [{"x": np.random.randn(batch, 3, 32, 32).astype(np.float32), "t": t.numpy()} for _ in range(20 if batch == 1 else 3)]
        numbers = nncf.quantize(core.read_model(onnx), nncf.Dataset(calibration), preset=nncf.QuantizationPreset.MIXED, subset_size=len(calibration))
        compiled_int8 = core.compile_model(numbers, "CPU", settings)
        noise = np.ascontiguousarray(x.numpy())
        sampler, ours, read = sampler_of(model, batch, noise)
        sampler_int8, ours_int8, read_int8 = sampler_of(whole, batch, noise)
        ours()
        ours_int8()
        out = read()
        abar = np.prod(1 - np.linspace(1e-4, 0.02, 1000))  # one DDIM step from t = 999 to clean data
        peer = (noise - np.sqrt(1 - abar) * expected) / np.sqrt(abar)
        print(f"batch {batch}: same weights, largest relative difference {np.abs(out - peer).max() / np.abs(peer).max():.1e}")

        def eager():
            with torch.no_grad():
                net(x, t, return_dict=False)

        given = {"x_t": noise, "timestep": np.full(batch, 999, np.float32)}
        own = {precision: core.compile_model(exported(kind, f"{folder}/own-{precision}.onnx"), "CPU", settings) for precision, kind in (("f32", model), ("int8", whole))}
        theirs = {precision: in_onnxruntime(exported(kind, f"{folder}/own-{precision}-u.onnx", 2)) for precision, kind in (("f32", model), ("int8", whole))}
        difference = np.sqrt(np.mean((read_int8() - out) ** 2) / np.mean(out**2))
        programs = {"fewstep": ours, "fewstep int8": ours_int8, "OpenVINO f32": lambda: compiled(feed), "OpenVINO int8": lambda: compiled_int8(feed), "PyTorch eager f32": eager}
        for precision in ("f32", "int8"):
            programs[f"our file in OpenVINO, {precision}"] = lambda at=own[precision]: at(given)
            programs[f"our file in ONNX Runtime, {precision}"] = lambda at=theirs[precision]: at.run(None, given)
        sampler_bf16 = sampler_both = None
        if multiplies_bf16():
            compiled_bf16 = core.compile_model(onnx, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "bf16"})
            sampler_bf16, programs["fewstep bf16"], _ = sampler_of(model, batch, noise, BF16)
            sampler_both, programs["fewstep int8 and bf16"], _ = sampler_of(whole, batch, noise, BF16)  # what int8 leaves in float in bf16
            compiled_both = core.compile_model(numbers, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "bf16"})
            programs["OpenVINO bf16"] = lambda: compiled_bf16(feed)
            programs["OpenVINO int8 and bf16"] = lambda: compiled_both(feed)
        else:
            print("  bf16: left out, this processor has no AMX that may be used")
        times = Times(programs, 12 if batch == 1 else 5, 8 if batch == 1 else 2)
        times.report(f"one evaluation of student_s, batch {batch}")
        print(f"  f32: over OpenVINO f32 {times.ratio('fewstep', 'OpenVINO f32')}, over PyTorch {times.ratio('fewstep', 'PyTorch eager f32')}")
        modes = [name for name in programs if name.startswith("OpenVINO")]
        print(f"  int8: over own f32 {times.ratio('fewstep int8', 'fewstep')}, over OpenVINO int8 {times.ratio('fewstep int8', 'OpenVINO int8')}, over OpenVINO's best mode {times.ratio('fewstep int8', *modes)}; its result is {difference:.3f} of f32's away (random weights)")
        for runtime_name in ("OpenVINO", "ONNX Runtime"):
            ours_over = {precision: times.ratio(f"fewstep{' int8' * (precision == 'int8')}", f"our file in {runtime_name}, {precision}") for precision in ("f32", "int8")}
            print(f"  over our own file in {runtime_name}: f32 {ours_over['f32']}, int8 {ours_over['int8']}")
        if sampler_bf16:
            print(f"  bf16: over own f32 {times.ratio('fewstep bf16', 'fewstep')}, over OpenVINO bf16 {times.ratio('fewstep bf16', 'OpenVINO bf16')}; int8 and bf16 together over OpenVINO's best mode {times.ratio('fewstep int8 and bf16', *modes)}, over our int8 {times.ratio('fewstep int8 and bf16', 'fewstep int8')}")
            check(lib.fewstep_sampler_destroy(sampler_bf16))
            check(lib.fewstep_sampler_destroy(sampler_both))
        info = STRUCTS["fewstep_sampler_info"](struct_size=C.sizeof(STRUCTS["fewstep_sampler_info"]))
        check(lib.fewstep_sampler_get_info(sampler, C.byref(info)))
        print(f"  arena {info.arena_bytes} bytes, largest live set {info.peak_live_bytes} ({info.arena_bytes / info.peak_live_bytes:.3f}), prepared {info.prepared_bytes}")
        check(lib.fewstep_sampler_destroy(sampler))
        check(lib.fewstep_sampler_destroy(sampler_int8))
    return folder


PLAIN = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}


def trainer_of(folder, patch, batch, precision=F32):
    """A trainer of two steps of a student derived from the teacher in `folder`, and the folder that the student is in."""
    teacher, student, trainer = C.c_void_p(), C.c_void_p(), C.c_void_p()
    check(lib.fewstep_model_open(runtime, folder.encode(), C.byref(teacher)))
    o = options("fewstep_student_options")
    text = C.c_char_p(json.dumps(patch).encode())
    o.config_patch, o.prediction, o.steps = C.cast(text, C.c_void_p), 3, 2
    check(lib.fewstep_model_derive_student(runtime, teacher, C.byref(o), C.byref(student)))
    saved = tempfile.mkdtemp()
    check(lib.fewstep_model_save(student, saved.encode()))
    term = STRUCTS["fewstep_term"](objective=2, step_weight=5, norm=2, weight=1.0)
    to = options("fewstep_trainer_options")
    to.terms, to.term_count, to.term_stride, to.steps, to.substeps, to.cache_size, to.batch = C.addressof(term), 1, C.sizeof(term), 2, 1, 64, batch
    to.precision = precision
    check(lib.fewstep_trainer_create(runtime, student, teacher, None, C.byref(to), C.byref(trainer)))
    check(lib.fewstep_trainer_prepare(trainer, None, None, None))
    return trainer, saved


def eager_step(folder, batch, autocast=False):
    """The same step in PyTorch: gather, forward, backward, clip, AdamW, moving average."""
    net = UNet2DModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False).train()
    ema, optimizer, count = copy.deepcopy(net), torch.optim.AdamW(net.parameters(), lr=1e-3), 64
    shape, times = (count, net.config.in_channels, net.config.sample_size, net.config.sample_size), torch.tensor([999, 499])
    x, y = torch.randn(shape), torch.randn(shape)
    labels = torch.randint(0, 10, (count,)) if net.config.num_class_embeds else None

    def run():
        i, k = torch.randint(0, count, (batch,)), times[torch.randint(0, 2, (batch,))]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = net(x[i], k, class_labels=None if labels is None else labels[i], return_dict=False)[0]
        loss = F.mse_loss(out.float(), y[i])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1e-3)

    return run


def training(what, folder, patch, batch, rounds, burst):
    """One step on a cache: gather, forward, backward, clip, AdamW, moving average."""
    programs, bf16 = {}, multiplies_bf16()
    trainer, saved = trainer_of(folder, patch, batch)
    programs["fewstep"] = lambda: check(lib.fewstep_trainer_step(trainer, None))
    if bf16:
        narrow, _ = trainer_of(folder, patch, batch, BF16)
        programs["fewstep bf16"] = lambda: check(lib.fewstep_trainer_step(narrow, None))
        programs["PyTorch eager bf16 autocast"] = eager_step(saved, batch, True)
    programs["PyTorch eager f32"] = eager_step(saved, batch)
    times = Times(programs, rounds, burst)
    times.report(f"one training step of {what}, batch {batch}")
    print(f"  f32: over PyTorch f32 {times.ratio('fewstep', 'PyTorch eager f32')}; {1e3 / times.median['fewstep']:.1f} steps a second")
    if bf16:
        print(f"  bf16: over own f32 {times.ratio('fewstep bf16', 'fewstep')}, over PyTorch bf16 autocast {times.ratio('fewstep bf16', 'PyTorch eager bf16 autocast')}, f32 over it {times.ratio('fewstep', 'PyTorch eager bf16 autocast')}")
        check(lib.fewstep_trainer_destroy(narrow))
    check(lib.fewstep_trainer_destroy(trainer))


def trajectories(folder, count, steps, batch):
    """A trainer's cache from nothing, the trainer's creation in it: DDIM by the teacher, from `count` noises, `batch` at once."""
    teacher = C.c_void_p()
    check(lib.fewstep_model_open(runtime, folder.encode(), C.byref(teacher)))
    term = STRUCTS["fewstep_term"](objective=2, step_weight=5, norm=2, weight=1.0)
    to = options("fewstep_trainer_options")
    to.terms, to.term_count, to.term_stride, to.steps, to.substeps = C.addressof(term), 1, C.sizeof(term), 2, steps // 2
    to.cache_size, to.cache_batch, to.trajectory_clip = count, batch, 0

    def ours(precision=F32):
        trainer, to.precision = C.c_void_p(), precision
        check(lib.fewstep_trainer_create(runtime, teacher, teacher, None, C.byref(to), C.byref(trainer)))
        check(lib.fewstep_trainer_prepare(trainer, None, None, None))
        check(lib.fewstep_trainer_destroy(trainer))

    net = UNet2DModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False).eval()
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)

    @torch.inference_mode()
    def theirs():
        for _ in range(0, count, batch):
            x, labels = torch.randn((batch, net.config.in_channels, net.config.sample_size, net.config.sample_size)), torch.randint(0, 10, (batch,))
            for t in scheduler.timesteps:
                x = scheduler.step(net(x, t, class_labels=labels, return_dict=False)[0], t, x, return_dict=False)[0]

    programs = {"fewstep": ours, "diffusers": theirs}
    if multiplies_bf16():
        programs["fewstep bf16"] = lambda: ours(BF16)
    times = Times(programs, 2, 1)
    times.report(f"{count} trajectories of {steps} DDIM steps by the digits teacher, {batch} at once")
    over = "; ".join(f"{name} over diffusers {times.ratio(name, 'diffusers')}, {1e3 * count / times.median[name]:.0f} a second" for name in programs if name != "diffusers")
    print(f"  {over}")


student_s = evaluation()
trajectories("examples-c/data/digits_teacher", 256, 32, 64)
training("the demo's student", "examples-c/data/digits_teacher", {"block_out_channels": [16, 32], "layers_per_block": 1, **PLAIN}, 64, 8, 4)
training("student_s", student_s, {}, 16, 4, 2)
