"""FEWSTEP_SAMPLER_FROM_MODEL against diffusers, through the C header: the digits teacher with each deterministic scheduler, from the same noise.

usage: python tests/interop/from_model.py        (after `make lib`; needs a C compiler, torch, diffusers, safetensors, numpy, scipy)
Then every class with betas: the teacher opens with it, DDIM gives what diffusers' DDIM gives with that class's alphas_cumprod, and a class whose own sampling
is not supported says so. Exits non-zero when an image differs by more than 1e-3 of the largest pixel, or a class is not what the table says."""
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEACHER = f"{ROOT}/examples-c/data/digits_teacher"
LIB = os.environ.get("FEWSTEP_LIB", f"{ROOT}/target/release")
BATCH, FROM_MODEL, DDIM, UNSUPPORTED = 4, 0, 1, None
torch.set_num_threads(1)

TRAILING, KARRAS = dict(timestep_spacing="trailing"), dict(use_karras_sigmas=True)
SAMPLED = [
    ("DDIMScheduler", 10, {}), ("DDIMParallelScheduler", 10, TRAILING), ("DPMSolverMultistepScheduler", 12, KARRAS),
    ("EulerDiscreteScheduler", 10, {}), ("EulerDiscreteScheduler", 10, dict(timestep_spacing="leading", steps_offset=1)), ("EulerDiscreteScheduler", 12, KARRAS),
    ("EulerDiscreteScheduler", 10, dict(use_beta_sigmas=True)), ("EulerDiscreteScheduler", 10, dict(use_exponential_sigmas=True)),
    ("PNDMScheduler", 20, {}), ("PNDMScheduler", 20, dict(skip_prk_steps=True)), ("PNDMScheduler", 8, dict(skip_prk_steps=True, **TRAILING)),
    ("UniPCMultistepScheduler", 10, {}), ("UniPCMultistepScheduler", 8, dict(solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min")),
    ("UniPCMultistepScheduler", 10, dict(solver_order=1, **TRAILING)), ("UniPCMultistepScheduler", 10, KARRAS), ("LCMScheduler", 1, {}),
]
OWN = {"DDIM", "DDIMParallel", "DPMSolverMultistep", "DDPM", "DDPMParallel", "EulerDiscrete", "EulerAncestralDiscrete", "PNDM", "LCM", "UniPCMultistep"}
NOT_BETAS = {"IPNDMScheduler"}  # its "betas" are sigmas of a continuous time


def with_betas():
    """Every scheduler class of diffusers whose constructor takes betas, and unCLIP, whose betas are fixed."""
    classes = [c for n, c in inspect.getmembers(diffusers) if n.endswith("Scheduler") and inspect.isclass(c) and not n.startswith("Flax")]
    takes = lambda c: {"beta_start", "trained_betas"} & set(inspect.signature(c.__init__).parameters)
    return [c for c in classes if (takes(c) or c.__name__ == "UnCLIPScheduler") and c.__name__ not in NOT_BETAS]


class Rig:
    def __init__(self, work):
        self.work, self.unet = work, UNet2DModel.from_pretrained(TEACHER, subfolder="unet").eval()
        self.program = f"{work}/sample_raw"
        flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT}/include", f"-L{LIB}", "-lfewstep", f"-Wl,-rpath,{LIB}"]
        subprocess.run(["cc", f"{ROOT}/tests/interop/sample_raw.c", "-o", self.program, *flags], check=True)
        self.noise = np.random.default_rng(1).standard_normal((BATCH, 1, 8, 8)).astype(np.float32)
        self.noise.tofile(f"{work}/noise")

    def folder(self, config):
        folder = f"{self.work}/model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(f"{TEACHER}/unet", f"{folder}/unet")
        os.makedirs(f"{folder}/scheduler")
        with open(f"{folder}/scheduler/scheduler_config.json", "w") as file:
            json.dump(config, file)
        return folder

    def ours(self, config, kind, steps):
        command = [self.program, self.folder(config), str(kind), str(steps), str(BATCH), f"{self.work}/noise", f"{self.work}/images"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            return run.stderr.strip()
        return np.fromfile(f"{self.work}/images", np.float32).reshape(self.noise.shape)

    @torch.no_grad()
    def theirs(self, scheduler, steps):
        scheduler.set_timesteps(steps)
        x = torch.from_numpy(self.noise) * scheduler.init_noise_sigma
        labels = torch.arange(BATCH) % 10
        for t in scheduler.timesteps:
            out = self.unet(scheduler.scale_model_input(x, t), t, class_labels=labels).sample
            x = scheduler.step(out, t, x).prev_sample
        return x.numpy()


def compare(what, ours, theirs):
    if isinstance(ours, str):
        print(f"{what}: REFUSED {ours}")
        return False
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{what}: relative difference {worst:.1e}{'' if worst <= 1e-3 else ' DIFFERS'}")
    return worst <= 1e-3


def main():
    with tempfile.TemporaryDirectory() as work:
        rig, good = Rig(work), True
        for name, steps, config in SAMPLED:
            scheduler = getattr(diffusers, name)(**config)
            said = dict(_class_name=name, **config)
            good &= compare(f"{name} {config} {steps} steps", rig.ours(said, FROM_MODEL, steps), rig.theirs(scheduler, steps))
        for cls in with_betas():
            # The library's own DDIM options: trailing, each step on the next of the list; five steps divide 1000, so diffusers lands there too.
            reference = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
            reference.alphas_cumprod = cls().alphas_cumprod.float()
            good &= compare(f"{cls.__name__}, DDIM", rig.ours(dict(_class_name=cls.__name__), DDIM, 5), rig.theirs(reference, 5))
            own = rig.ours(dict(_class_name=cls.__name__), FROM_MODEL, 5)
            as_said = cls.__name__.removesuffix("Scheduler") in OWN
            if as_said == isinstance(own, str) or isinstance(own, str) and not (own.startswith("UNSUPPORTED") and cls.__name__ in own):
                print(f"{cls.__name__}, its own sampling: {own if isinstance(own, str) else 'not refused'} FAULT")
                good = False
        sys.exit(0 if good else "differs from diffusers")


main()
