"""A student trained and saved by fewstep, opened in diffusers: its 2-step DDIM run must give the same images.

usage: python tests/interop/diffusers_roundtrip.py [target/demo]        (after `make demo`; needs torch, diffusers, numpy)
Reads student/ (a diffusers folder), noise.npy, labels.npy and student2.npy; exits non-zero when any pixel differs by more than 1e-3."""
import sys

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

folder = sys.argv[1] if len(sys.argv) > 1 else "target/demo"
pipeline = DDIMPipeline.from_pretrained(f"{folder}/student")
assert isinstance(pipeline.unet, UNet2DModel)
unet = UNet2DModel.from_pretrained(f"{folder}/student", subfolder="unet").eval()
scheduler = DDIMScheduler.from_pretrained(f"{folder}/student", subfolder="scheduler")
config = scheduler.config
assert config.prediction_type == "v_prediction" and config.timestep_spacing == "trailing", config
assert config.clip_sample is False and config.set_alpha_to_one is True, config

x = torch.from_numpy(np.load(f"{folder}/noise.npy"))
labels = torch.from_numpy(np.load(f"{folder}/labels.npy")).long()
scheduler.set_timesteps(2)
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=labels).sample, t, x, eta=0.0).prev_sample
worst = np.abs(x.numpy() - np.load(f"{folder}/student2.npy")).max()
print(f"timesteps {scheduler.timesteps.tolist()}, {len(x)} samples, max|diffusers - fewstep| = {worst:.2e}")
sys.exit(0 if worst <= 1e-3 else f"differs by {worst}")
