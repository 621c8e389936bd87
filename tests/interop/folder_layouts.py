"""Folders as diffusers and people write them, opened by fewstep, saved by it, and opened by diffusers again: the same weights.

usage: python tests/interop/folder_layouts.py [target/release/libfewstep.so]        (needs torch, diffusers, safetensors, numpy)
Shards, variants, types, prefixes of wrappers, networks without their scheduler, a hub's cache; and what must be refused, with the word that it is refused
with. Exits non-zero when anything is otherwise. The weights agree to half a unit in the last digit of the type that they went through."""
import ctypes as C
import os
import shutil
import sys
import tempfile

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel, logging
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

logging.set_verbosity_error()
logging.disable_progress_bar()
lib = C.CDLL(sys.argv[1] if len(sys.argv) > 1 else "target/release/libfewstep.so")
lib.fewstep_last_error.restype = lib.fewstep_status_name.restype = C.c_char_p
lib.fewstep_model_open_variant.argtypes = [C.c_void_p, C.c_char_p, C.c_char_p, C.c_void_p]
lib.fewstep_model_save.argtypes = [C.c_void_p, C.c_char_p]
lib.fewstep_model_destroy.argtypes = [C.c_void_p]
runtime = C.c_void_p()
assert lib.fewstep_runtime_create(None, C.byref(runtime)) == 0

CONFIG = dict(sample_size=16, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
              down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
W = "unet/diffusion_pytorch_model.safetensors"
torch.manual_seed(0)
net = UNet2DModel(**CONFIG)
scheduler = DDIMScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
faults = 0


def status_of(path, variant):
    model = C.c_void_p()
    status = lib.fewstep_model_open_variant(runtime, path.encode(), None if variant is None else variant.encode(), C.byref(model))
    return lib.fewstep_status_name(status).decode(), lib.fewstep_last_error().decode() if status else "", model


def fault(case, what):
    global faults
    faults += 1
    print(f"FAULT {case}: {what}")


def opens(case, folder, variant=None, tolerance=0.0, schedule="squaredcos_cap_v2"):
    """Opens, saves, and compares in diffusers. `tolerance` is relative to the largest weight of each tensor."""
    status, sentence, model = status_of(folder, variant)
    if status != "OK":
        return fault(case, f"{status}: {sentence}")
    with tempfile.TemporaryDirectory() as saved:
        assert lib.fewstep_model_save(model, saved.encode()) == 0
        lib.fewstep_model_destroy(model)
        pipeline = DDIMPipeline.from_pretrained(saved)
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(net.state_dict().values(), pipeline.unet.state_dict().values()))
    if worst > tolerance:
        fault(case, f"the weights differ by {worst}")
    if pipeline.scheduler.config.beta_schedule != schedule:
        fault(case, f"the scheduler has {pipeline.scheduler.config.beta_schedule} betas")
    print(f"{case}: the weights agree to {worst:.2g}")


def refused(case, folder, status, word, variant=None):
    found, sentence, _ = status_of(folder, variant)
    if found != status or word not in sentence:
        return fault(case, f"expected {status} with {word!r}, found {found}: {sentence}")
    print(f"{case}: {found}: {sentence.replace(folder, '')}")


def fresh(root, model=net, **options):
    shutil.rmtree(root, ignore_errors=True)
    model.save_pretrained(f"{root}/unet", **options)
    scheduler.save_pretrained(f"{root}/scheduler")


with tempfile.TemporaryDirectory() as scratch:
    t = f"{scratch}/m"
    fresh(t)
    opens("pipeline", t)
    ema = EMAModel(net.parameters(), decay=0.0, model_cls=UNet2DModel, model_config=net.config)
    ema.save_pretrained(f"{t}/checkpoint-5/unet_ema")
    opens("checkpoint-5/unet_ema", f"{t}/checkpoint-5/unet_ema")
    opens("checkpoint-5", f"{t}/checkpoint-5")
    shutil.rmtree(f"{t}/scheduler")
    opens("no scheduler", t, schedule="linear")
    for variant in ("fp16", "bf16", "ema", "non_ema"):
        fresh(t, variant=variant)
        opens(f"variant {variant}", t)
        opens(f"variant {variant} by name", t, variant)
        refused(f"variant {variant}, another by name", t, "NOT_FOUND", variant, "mine")
    for options in ({}, {"variant": "fp16"}):
        fresh(t, max_shard_size="100KB", **options)
        opens(f"shards {options}", t, options.get("variant"))
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        fresh(t)
        save_file({name: value.to(dtype) for name, value in net.state_dict().items()}, f"{t}/{W}")
        opens(f"{dtype}", t, tolerance=tolerance)
    for prefix in ("_orig_mod.", "module.", "module._orig_mod."):
        fresh(t)
        save_file({prefix + name: value for name, value in net.state_dict().items()}, f"{t}/{W}")
        opens(f"prefix {prefix}", t)
    fresh(t)
    hub = f"{scratch}/models--a--b"
    os.makedirs(f"{hub}/snapshots/abc/unet"), os.makedirs(f"{hub}/blobs")
    for name in ("config.json", os.path.basename(W)):
        shutil.move(f"{t}/unet/{name}", f"{hub}/blobs/{name}.blob")
        os.symlink(f"../../../blobs/{name}.blob", f"{hub}/snapshots/abc/unet/{name}")
    shutil.copytree(f"{t}/scheduler", f"{hub}/snapshots/abc/scheduler")
    opens("a hub's cache", hub)
    opens("a hub's snapshot", f"{hub}/snapshots/abc")

    fresh(t, safe_serialization=False)
    refused("pickle", t, "UNSUPPORTED", "diffusion_pytorch_model.bin")
    os.rename(f"{t}/unet/diffusion_pytorch_model.bin", f"{t}/{W}")
    refused("pickle under another name", t, "UNSUPPORTED", "pickle")
    with open(f"{t}/{W}", "w") as file:
        file.write("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 143180996\n")
    refused("git LFS pointer", t, "CORRUPT_FILE", "Git LFS pointer")
    fresh(t)
    save_file({"unet." + name: value for name, value in load_file(f"{t}/{W}").items()}, f"{t}/{W}")
    refused("another prefix", t, "NOT_FOUND", "unet.conv_in.bias")

    # A folder of shards that fewstep saves into: diffusers must not go on to read the shards.
    fresh(t, model=UNet2DModel(**CONFIG), max_shard_size="100KB")
    fresh(f"{scratch}/n")
    status, sentence, model = status_of(f"{scratch}/n", None)
    assert status == "OK" and lib.fewstep_model_save(model, t.encode()) == 0, sentence
    if any((a != b).any() for a, b in zip(net.state_dict().values(), UNet2DModel.from_pretrained(f"{t}/unet").state_dict().values())):
        fault("saved over shards", "diffusers reads the older model")
sys.exit(f"{faults} faults" if faults else 0)
