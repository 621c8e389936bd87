"""ONNX files of fewstep in the runtimes that they are for: the same numbers, and whole numbers where the library has them.

usage: compilers.py STUDENT OUT [TABLE]     (`make test-interop`; pip: requirements.txt beside this file)
  STUDENT   a few-step student of examples-c/data/digits_teacher, as examples-c/distill_digits writes it
  OUT       a folder for the files
  TABLE     a file whose text after its first table is written anew

Every program of every model, in every precision, is checked by onnx.checker and shape inference and run by ONNX Runtime and OpenVINO on the same inputs as the
library's own evaluators and samplers; convolutions that compute in bytes are counted in what the runtimes have made of the file. TensorRT-RTX, where its wheel is
there, parses every file of the symmetric profile and builds an engine ahead of time, which shows that it takes the file, not what it computes."""
import ctypes as C
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
import header  # noqa: E402

try:
    import numpy as np
    import onnx
    import onnxruntime
    import openvino
except ImportError as e:
    sys.exit(f"compilers.py needs tests/interop/requirements.txt: {e}")
try:
    import tensorrt_rtx_libs  # noqa: F401: loads what the bindings link with
    import tensorrt_rtx_bindings as tensorrt
except ImportError:
    tensorrt = None

BATCH, STEPS, HELD_OUT = 5, 2, 256
lib = C.CDLL(str(header.LIBRARY))
lib.fewstep_last_error.restype = C.c_char_p
STRUCTS = header.structs()
EVALUATION, STEP, SAMPLER = 1, 2, 3
PROGRAMS = {EVALUATION: "evaluation", STEP: "step", SAMPLER: "sampler"}
SYMMETRIC, UNSIGNED = 1, 2
rng = np.random.default_rng(7)


def check(status):
    if status:
        sys.exit(lib.fewstep_last_error().decode())


def options(name, **fields):
    """Options of the header's struct of this name: its defaults, and these."""
    made = header.defaults(STRUCTS[name], getattr(lib, f"{name}_init"), check)
    for field, value in fields.items():
        setattr(made, field, C.cast(C.byref(value), C.c_void_p) if isinstance(value, C.Structure) else value)
    return made


runtime_options = options("fewstep_runtime_options", threads=2)
runtime = C.c_void_p()
check(lib.fewstep_runtime_create(C.byref(runtime_options), C.byref(runtime)))


def pointer(array):
    return array.ctypes.data_as(C.c_void_p)


class Labels:
    """The conditions of a call, as C has them: labels or nothing."""

    def __init__(self, classes, count=BATCH):
        self.labels = np.arange(count, dtype=np.int32) % max(classes, 1)
        self.array = STRUCTS["fewstep_conditioning"](kind=1, data=pointer(self.labels), count=count)
        self.fields = dict(conditionings=self.array, conditioning_count=1, conditioning_stride=C.sizeof(self.array)) if classes else {}


class Model:
    """A model of the library's, and what it computes."""

    def __init__(self, handle):
        self.handle = handle
        self.info = STRUCTS["fewstep_model_info"]()
        self.info.struct_size = C.sizeof(self.info)
        check(lib.fewstep_model_get_info(handle, C.byref(self.info)))
        size = [self.info.height or 8, self.info.width or 8]
        self.fields = {}
        self.image = [BATCH, self.info.out_channels if self.info.out_channels < self.info.in_channels else self.info.in_channels, *size]

    @classmethod
    def open(cls, path):
        handle = C.c_void_p()
        check(lib.fewstep_model_open(runtime, str(path).encode(), C.byref(handle)))
        return cls(handle)

    @classmethod
    def create(cls, config, scheduler=None):
        """A network with random weights."""
        handle = C.c_void_p()
        check(lib.fewstep_model_create(runtime, config.encode(), scheduler and scheduler.encode(), C.c_uint64(3), C.byref(handle)))
        return cls(handle)

    def derived(self, **fields):
        """A student with random weights."""
        handle = C.c_void_p()
        made = options("fewstep_student_options", **fields)
        check(lib.fewstep_model_derive_student(runtime, self.handle, C.byref(made), C.byref(handle)))
        return Model(handle)

    def sampled_by(self, **fields):
        """The same by another sampler."""
        other = Model(self.handle)
        other.fields = fields
        return other

    def quantized(self, **fields):
        handle = C.c_void_p()
        made = options("fewstep_quantize_options", **fields)
        check(lib.fewstep_quantize(runtime, self.handle, C.byref(made), None, None, C.byref(handle)))
        return Model(handle)

    def export(self, path, **fields):
        made = options("fewstep_onnx_options", **fields)
        check(lib.fewstep_model_export_onnx(self.handle, C.byref(made), str(path).encode()))

    def sampler_options(self, batch=BATCH, steps=STEPS):
        """A student's own grid; DDIM in a few steps for others."""
        usual = dict(kind=0 if self.info.steps else 1, steps=0 if self.info.steps else steps, spacing=2, set_alpha_to_one=1, clip=0)
        return options("fewstep_sampler_options", batch=batch, height=self.image[2], width=self.image[3], **(usual | self.fields))

    def evaluate(self, x, t):
        made = options("fewstep_evaluator_options", batch=BATCH, height=self.image[2], width=self.image[3])
        evaluator, labels = C.c_void_p(), Labels(self.info.classes)
        check(lib.fewstep_evaluator_create(runtime, self.handle, C.byref(made), C.byref(evaluator)))
        call = options("fewstep_evaluation", x_t=pointer(x), x_t_count=x.size, timesteps=pointer(t), timestep_count=t.size, **labels.fields)
        out = np.empty([BATCH, self.info.out_channels, *self.image[2:]], np.float32)
        check(lib.fewstep_evaluator_run(evaluator, C.byref(call), pointer(out), C.c_size_t(out.size)))
        check(lib.fewstep_evaluator_destroy(evaluator))
        return out[:, : self.image[1]]

    def sample(self, noise, steps=STEPS, runs=6):
        """The images of these noises, and the ms that they take."""
        made, sampler, labels = self.sampler_options(len(noise), steps), C.c_void_p(), Labels(self.info.classes, len(noise))
        check(lib.fewstep_sampler_create(runtime, self.handle, C.byref(made), C.byref(sampler)))
        begin = options("fewstep_begin_options", noise=pointer(noise), noise_count=noise.size, **labels.fields)
        out, times = np.empty_like(noise), []
        for _ in range(runs):
            start = time.perf_counter()
            check(lib.fewstep_sampler_begin(sampler, C.byref(begin)))
            check(lib.fewstep_sampler_run(sampler, None, None, None))
            check(lib.fewstep_sampler_read(sampler, pointer(out), C.c_size_t(out.size)))
            times.append(1e3 * (time.perf_counter() - start))
        check(lib.fewstep_sampler_destroy(sampler))
        return out, statistics.median(times[1:] or times)


class OnnxRuntime:
    name = "ONNX Runtime"

    def __init__(self, path):
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 2
        settings.optimized_model_filepath = str(path) + ".optimized"
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i.shape for i in self.session.get_inputs()}
        made = onnx.load(settings.optimized_model_filepath)
        pathlib.Path(settings.optimized_model_filepath).unlink()
        ops = [n.op_type for n in made.graph.node]
        self.whole = sum(op in ("ConvInteger", "MatMulInteger", "QLinearConv", "DynamicQuantizeMatMul", "MatMulIntegerToFloat") for op in ops)

    def run(self, given):
        return self.session.run(None, {name: given[name] for name in self.inputs})


class OpenVino:
    name = "OpenVINO"

    def __init__(self, path):
        # Floats stay f32: its own choice on processors with AMX is bf16.
        config = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}
        self.model = openvino.Core().compile_model(str(path), "CPU", config)
        self.request = self.model.create_infer_request()
        self.inputs = {i.get_any_name(): i.get_partial_shape() for i in self.model.inputs}
        kinds = [op.get_rt_info() for op in self.model.get_runtime_model().get_ops()]
        whole = lambda info: info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul") and info["runtimePrecision"].astype(str) in ("u8", "i8")
        self.whole = sum(whole(info) for info in kinds)

    def run(self, given):
        results = self.request.infer({name: given[name] for name in self.inputs})
        return [results[output].copy() for output in self.model.outputs]


def built_by_tensorrt(path):
    """Whether TensorRT-RTX takes the file and builds an engine of it for a GPU that need not be there; how many bytes that has."""
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(pathlib.Path(path).read_bytes()):
        sys.exit(f"{path}: TensorRT-RTX: " + "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(tensorrt.ComputeCapability.SM89, 0)
    for i in range(network.num_inputs):
        shape = [1 if d == -1 else d for d in network.get_input(i).shape]
        profile.set_shape(network.get_input(i).name, shape, [BATCH if s == -1 else s for s in network.get_input(i).shape], [64 if s == -1 else s for s in network.get_input(i).shape])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        sys.exit(f"{path}: TensorRT-RTX builds no engine")
    return engine.nbytes


def away(found, expected):
    """The square root of the mean square of the difference, over that of what is expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


def run_program(runtime_of, program, x, t, labels, steps):
    given = {"x_t": x, "noise": x, "timestep": t, "labels": labels.astype(np.int64)}
    if program == EVALUATION and "step" in runtime_of.inputs:  # of a student whose steps have parameters of their own
        given["step"] = np.array([1], np.int64)
    if program != STEP:
        return runtime_of.run(given)[0]
    given["x_t"] = x * np.float32(runtime_of.initial)
    kept = [name for name in runtime_of.inputs if name.startswith("kept.")]
    given |= {name: np.zeros_like(x) for name in kept}
    for k in range(steps):
        given["step"] = np.array([k], np.int64)
        given["x_t"], *new = runtime_of.run(given)
        given |= dict(zip(kept, new))
    return given["x_t"]


def rmse(found, expected):
    return float(np.sqrt(((found - expected) ** 2).mean()))


# What models and precisions may be away from the library's own numbers, over their size: sums in another order (an untrained network's step from pure noise divides
# by 0.005), f16 parameters, whole numbers of which one in thousands is another because of such sums.
BOUNDS = {"f32": 1e-4, "f16 weights": 1e-2, "int8": 3.2e-2, "int8, 4-bit weights": 3.2e-2, "int4 weights": 1e-4, "bf16 weights": 1e-4}


def main():
    student_path, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    golden = ROOT / "tests/golden/data/unet"
    teacher, student = Model.open(ROOT / "examples-c/data/digits_teacher"), Model.open(student_path)
    int8, int4 = student.quantized(samples=256), student.quantized(mode=4, samples=256)
    models = [(f"U-Net {path.name}", Model.open(path), "f32", {}) for path in sorted(golden.iterdir())]
    models += [("digits teacher", teacher, "f32", {}), ("digits student", student, "f32", {}), ("digits student", student, "f16 weights", {"half_weights": 1})]
    linear = Model.create((golden / "class_conditional/config.json").read_text().replace("AttnDown", "LinearAttnDown").replace("AttnUp", "LinearAttnUp"))
    euler = Model.create((golden / "class_conditional/config.json").read_text(), '{"_class_name": "EulerDiscreteScheduler"}')
    per_step, w4a8 = teacher.derived(steps=STEPS, per_step_weights=1), student.quantized(mode=3, samples=256)
    models += [("linear attention", linear, "f32", {}), ("steps with weights of their own", per_step, "f32", {})]
    models += [("digits teacher, DPM-Solver++ 2M", teacher.sampled_by(kind=2, steps=3, solver_order=2), "f32", {})]
    models += [("digits teacher, guided", teacher.sampled_by(guidance_scale=2.0, null_label=3), "f32", {}), ("digits student", w4a8, "int8, 4-bit weights", {"profile": SYMMETRIC})]
    models += [("digits student", w4a8, "int8, 4-bit weights", {"profile": UNSIGNED}), ("digits student", student.quantized(mode=6), "bf16 weights", {})]
    models += [("U-Net class_conditional, Euler", euler.sampled_by(kind=0, steps=3), "f32", {}), ("digits student, opset 24", student, "f32", {"opset": 24})]
    models += [("digits student", int8, "int8", {"profile": SYMMETRIC}), ("digits student", int8, "int8", {"profile": UNSIGNED}), ("digits student", int4, "int4 weights", {})]
    noise = rng.standard_normal([HELD_OUT, 1, 8, 8], dtype=np.float32)
    ends = teacher.sample(noise, 50, 1)[0]
    rows, failed = [], []
    for name, model, precision, fields in models:
        x = np.ascontiguousarray(rng.standard_normal(model.image, dtype=np.float32))
        timesteps = [999, 499] if model.info.steps else [999, 500, 250, 1, 0]
        t = np.array([timesteps[1 if model.info.per_step_weights else i % len(timesteps)] for i in range(BATCH)], np.float32)
        labels = Labels(model.info.classes).labels
        sampled, own = model.sample(x)
        expected = {EVALUATION: model.evaluate(x, t), STEP: sampled, SAMPLER: sampled}
        for program, program_name in PROGRAMS.items():
            path = out / "-".join([name.replace(" ", "_"), precision.replace(" ", "_"), *("unsigned" for _ in [0] if fields.get("profile") == UNSIGNED), program_name]).lower()
            path = path.with_suffix(".onnx")
            model.export(path, program=program, sampler=model.sampler_options(), height=model.image[2], width=model.image[3], **fields)
            onnx.checker.check_model(str(path), full_check=True)
            initial = float({p.key: p.value for p in onnx.load(path).metadata_props}.get("fewstep.initial", 1))
            what = precision + (f", {'unsigned' if fields['profile'] == UNSIGNED else 'symmetric'}" if "profile" in fields else "")
            built = built_by_tensorrt(path) if tensorrt and fields.get("profile") != UNSIGNED else None
            for kind in (OnnxRuntime, OpenVino):
                at = kind(path)
                at.initial = initial
                found = run_program(at, program, x, t, labels, model.info.steps or model.fields.get("steps", STEPS))
                error = away(found, expected[program])
                times = []
                if program == SAMPLER:
                    for _ in range(6):
                        start = time.perf_counter()
                        run_program(at, program, x, t, labels, 0)
                        times.append(1e3 * (time.perf_counter() - start))
                layers = model.info.quantized_layers * ((model.info.steps or STEPS) if program == SAMPLER else 1)
                meant = {SYMMETRIC: OpenVino, UNSIGNED: OnnxRuntime}.get(fields.get("profile"))
                if not error <= BOUNDS[precision]:
                    failed.append(f"{name}, {program_name}, {what}, {kind.name}: {error:.2e} away, {BOUNDS[precision]:.1e} at most")
                if meant is kind and at.whole < layers:
                    failed.append(f"{name}, {program_name}, {what}, {kind.name}: {at.whole} products of bytes, {layers} layers")
                if precision == "int8" and program == SAMPLER and meant is kind:
                    images = run_program(at, program, noise, t, Labels(model.info.classes, HELD_OUT).labels, 0)
                    theirs, ours = rmse(images, ends), rmse(model.sample(noise, runs=1)[0], ends)
                    print(f"{what}: {theirs:.4f} from the teacher's ends in {kind.name}, {ours:.4f} in fewstep, of {HELD_OUT} noises", flush=True)
                    if not abs(theirs / ours - 1) <= 0.02:
                        failed.append(f"{what}, {kind.name}: {theirs:.4f} from the teacher's ends, {ours:.4f} in fewstep")
                ms = f"{statistics.median(times[1:]):.2f} ({own:.2f})" if times else ""
                rows.append(f"| {name} | {program_name} | {what} | {kind.name} | {error:.1e} | {ms} | {path.stat().st_size} | {f'{at.whole}/{layers}' if 'profile' in fields else ''} | {built or ''} |")
                print(rows[-1], flush=True)
    table = "| model | program | precision | runtime | away | ms, batch 5 (fewstep) | bytes | products of bytes / layers | TensorRT-RTX engine, bytes |\n" + "| --- " * 9 + "|\n" + "\n".join(rows) + "\n"
    if len(sys.argv) > 3:
        target = pathlib.Path(sys.argv[3])
        text = target.read_text()
        target.write_text(text[: text.index("| model |")] + table)
    if failed:
        sys.exit("\n".join(failed))
    print(f"{len(rows)} files and runtimes agree" + ("" if tensorrt else "; TensorRT-RTX NOT CHECKED: no wheel"))


main()
