"""PyTorch on the GPU, the peer to beat: what bench.c times, timed alike (medians between two CUDA events).

usage: python peers.py OUT.json SECONDS      needs torch with CUDA, and diffusers
OUT.json holds the rows that are done, whenever it is looked at; none is begun after so many seconds. Modes: eager; "graph", eager in one CUDA graph; compile; compile with CUDA graphs."""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("high")
torch._dynamo.config.recompile_limit = 64  # beyond, compiled functions would be eager ones without a word
torch.manual_seed(0)
DEVICE = "cuda"
DEADLINE = time.monotonic() + float(sys.argv[2])
betas = torch.linspace(1e-4, 0.02, 1000)
alphas_cumprod = torch.cumprod(1 - betas, 0).tolist()
GRID = [999, 749, 499, 249, -1]
rows = []


def student_s():
    return UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(64, 128, 128), down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=32, norm_num_groups=32)


def cifar_teacher():
    """The published google/ddpm-cifar10-32 shape."""
    return UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(128, 256, 256, 256), down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, norm_num_groups=32)


def add(**row):
    rows.append(row)
    print(row, flush=True)
    with open(sys.argv[1], "w") as f:
        json.dump(rows, f, indent=1)


def attempt(action, **row):
    """A row, or the reason why there is none."""
    if time.monotonic() > DEADLINE:
        return print("no time left for", row, flush=True)
    try:
        add(**row, **action())
    except Exception as e:  # one mode that fails must not cost the others
        add(**row, error=repr(e)[:200])


def median(run, runs, warm_up=5):
    for _ in range(warm_up):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def sample(net, x, timesteps):
    for i, t in enumerate(timesteps):
        a, next_a = alphas_cumprod[GRID[i]], alphas_cumprod[GRID[i + 1]] if GRID[i + 1] >= 0 else 1.0
        eps = net(x, t)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = next_a**0.5 * x0 + (1 - next_a) ** 0.5 * eps
    return x


def captured(run):
    """`run` as one CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@torch.no_grad()
def time_sampling(mode, net, model, batch):
    x = torch.randn(batch, 3, 32, 32, device=DEVICE, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    t = [torch.full((batch,), g, device=DEVICE) for g in GRID[:-1]]
    one, four = lambda: net(x, t[2]), lambda: sample(net, x, t)
    if mode == "compile+cudagraphs":
        # Each call's result lies in the graph's own memory, which the next call overwrites.
        four = lambda: sample(lambda y, s: net(y, s).clone(), x, t)
    prepare = captured if mode == "graph" else lambda run: run
    runs = 20 if batch > 64 else 50
    attempt(lambda: {"unet_ms": median(prepare(one), runs), "sample4_ms": median(prepare(four), runs)}, model=model, precision="f16", batch=batch, mode=mode)


def sampling_rows():
    nets = {}
    for make in (student_s, cifar_teacher):
        net = make().to(DEVICE, torch.float16).to(memory_format=torch.channels_last).eval()
        nets[make.__name__] = (lambda net: lambda x, t: net(x, t, return_dict=False)[0])(net)
    compiled = {name: torch.compile(net, dynamic=False) for name, net in nets.items()}
    with_graphs = {name: torch.compile(net, dynamic=False, mode="reduce-overhead") for name, net in nets.items()}
    for batch in (1, 256, 64, 16):
        for name, net in nets.items():
            time_sampling("eager", net, name, batch)
            time_sampling("graph", net, name, batch)
    distillation_rows(("eager",))
    # The rows that say most come first: compiling takes half a minute each.
    for batch in (1, 256):
        for name in nets:
            time_sampling("compile+cudagraphs", with_graphs[name], name, batch)
    distillation_rows(("compile",))
    for batch in (64, 16):
        for name in nets:
            time_sampling("compile+cudagraphs", with_graphs[name], name, batch)
    for batch in (1, 256):
        for name in nets:
            time_sampling("compile", compiled[name], name, batch)


def distillation_rows(modes):
    teacher = cifar_teacher().to(DEVICE).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    student = student_s().to(DEVICE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def loss_of(x0, noise, t, a):
        with torch.autocast("cuda", torch.bfloat16):
            x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
            with torch.no_grad():
                target = teacher(x_t, t, return_dict=False)[0]
            return F.mse_loss(student(x_t, t, return_dict=False)[0].float(), target.float())

    def step(loss, *batch):
        loss(*batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for batch in (64, 256):
        x0 = torch.randn(batch, 3, 32, 32, device=DEVICE).contiguous(memory_format=torch.channels_last)
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (batch,), device=DEVICE)
        a = torch.rand(batch, 1, 1, 1, device=DEVICE)
        for mode in modes:
            loss = torch.compile(loss_of, dynamic=False) if mode == "compile" else loss_of
            attempt(lambda: {"ms": median(lambda: step(loss, x0, noise, t, a), 20)}, what="distill_step", precision="bf16", batch=batch, mode=mode)


add(what="machine", gpu=torch.cuda.get_device_name(), torch=torch.__version__)
sampling_rows()
