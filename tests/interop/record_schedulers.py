"""Records runs of diffusers' schedulers with a toy network: tests/golden/data/schedulers/<class>.safetensors, one file a class.

usage: python tests/interop/record_schedulers.py [FOLDER]        (default tests/golden/data/schedulers; needs torch, diffusers, safetensors, numpy, scipy)
The network is eps(x, t) = 0.8 sin(1.3 x + t/250) of the scaled model input. A file's metadata has the class, the network, and for each case its config and
number of steps (json); its tensors are <case>.start (unit noise), <case>.states (before the first step and after each), <case>.timesteps and, where the
scheduler draws, <case>.noise: what each step drew, zeros where it drew nothing. Two samples of [1,2,3]; everything is seeded."""
import importlib
import inspect
import json
import os
import sys

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file

MODEL = "eps(x,t) = 0.8*sin(1.3*x + t/250)"
SHAPE = (2, 1, 2, 3)
ZERO_SNR = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
COSINE = dict(beta_schedule="squaredcos_cap_v2")
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def spacings(steps, **config):
    return [(f"{s}_{steps}", steps, dict(timestep_spacing=s, **config)) for s in ("leading", "trailing", "linspace")]


def predictions(steps, names=("sample", "v_prediction"), **config):
    return [(f"{p}_{steps}", steps, dict(prediction_type=p, **config)) for p in names]


def spreads(steps, suffix="", **config):
    return [(f"{s}{suffix}_{steps}", steps, {f"use_{s}_sigmas": True, **config}) for s in ("karras", "exponential", "beta")]


CLIPS = [
    ("unclipped_8", 8, dict(clip_sample=False)),
    ("clip_half_8", 8, dict(clip_sample=True, clip_sample_range=0.5)),
    ("threshold_8", 8, dict(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1.5, clip_sample=False)),
    ("threshold_below_one_8", 8, dict(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=0.5, clip_sample=False)),
]
ENDS = [("one_1", 1, {}), ("two_2", 2, {}), ("offset_7", 7, dict(steps_offset=1, timestep_spacing="leading")), ("long_50", 50, {})]
BETAS = [("cosine_9", 9, COSINE), ("scaled_linear_9", 9, SD), ("trained_5", 5, dict(trained_betas=list(np.linspace(0.01, 0.3, 20)), num_train_timesteps=20))]

# numpy's arange rounds to one element more than asked for: a step at timestep -1.
ONE_MORE = [("trailing_61", 61, dict(timestep_spacing="trailing"))]

DDIM = spacings(7) + predictions(6) + CLIPS + ENDS + BETAS + [("zero_snr_6", 6, ZERO_SNR)]
DDPM = DDIM + [(f"{v}_6", 6, dict(variance_type=v)) for v in ("fixed_small", "fixed_small_log", "fixed_large")] + [
    ("sigmoid_6", 6, dict(beta_schedule="sigmoid")), ("laplace_6", 6, dict(beta_schedule="laplace")),
    ("fixed_large_trailing_5", 5, dict(variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False)), ("all_200", 200, {}),
]
EULER = spacings(7) + predictions(6) + ENDS + BETAS + spreads(8) + spreads(6, "_leading", timestep_spacing="leading", steps_offset=1) + spreads(
    6, "_trailing", timestep_spacing="trailing", prediction_type="v_prediction") + [
    ("zero_snr_6", 6, ZERO_SNR), ("sigma_min_6", 6, dict(final_sigmas_type="sigma_min")), ("log_linear_6", 6, dict(interpolation_type="log_linear")),
    ("continuous_6", 6, dict(timestep_type="continuous", prediction_type="v_prediction")), ("continuous_epsilon_6", 6, dict(timestep_type="continuous")),
    ("karras_range_6", 6, dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=20.0)), ("karras_sigma_min_6", 6, dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")),
    ("log_linear_continuous_6", 6, dict(interpolation_type="log_linear", timestep_type="continuous", prediction_type="v_prediction")),
] + ONE_MORE
ANCESTRAL = spacings(7) + predictions(6, ("v_prediction",)) + ENDS + BETAS + [("zero_snr_6", 6, ZERO_SNR)]
PLMS = dict(skip_prk_steps=True)
PNDM = spacings(9) + spacings(7, **PLMS) + predictions(6, ("v_prediction",)) + [
    ("four_4", 4, {}), ("long_50", 50, {}), ("alpha_one_8", 8, dict(set_alpha_to_one=True)), ("odd_stride_11", 11, dict(steps_offset=1, **SD)), ("cosine_8", 8, COSINE),
]
PNDM = [(f"prk_{n}" if not c.get("skip_prk_steps") else f"plms_{n}", s, c) for n, s, c in PNDM] + [
    (f"plms_{n}", s, dict(**c, **PLMS)) for n, s, c in predictions(6, ("v_prediction",)) + ENDS + BETAS + [("alpha_one_8", 8, dict(set_alpha_to_one=True))]
    + [("sd_20", 20, dict(steps_offset=1, set_alpha_to_one=False, **SD))]
]
LCM = [(f"{n}_{n}", n, {}) for n in (1, 2, 4, 7)] + predictions(4) + [(f"{n}", min(s, 4), c) for n, s, c in CLIPS] + [
    ("original_20_6", 6, dict(original_inference_steps=20)), ("scaling_3", 3, dict(timestep_scaling=0.01)), ("scaling_zero_3", 3, dict(timestep_scaling=0.0)),
    ("cosine_4", 4, COSINE), ("zero_snr_4", 4, ZERO_SNR), ("linear_4", 4, dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)), ("all_50", 50, {}),
]
BH1 = dict(solver_type="bh1", final_sigmas_type="sigma_min")  # to sigma zero it is NaN in diffusers
UNIPC = spacings(7) + predictions(6) + ENDS + BETAS + spreads(8) + spreads(8, "_cosine", **COSINE) + [
    ("bh1_8", 8, BH1), ("zero_snr_6", 6, ZERO_SNR), ("threshold_8", 8, dict(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1.5)),
    ("noise_6", 6, dict(predict_x0=False, final_sigmas_type="sigma_min")), ("noise_sample_6", 6, dict(predict_x0=False, final_sigmas_type="sigma_min", prediction_type="sample", use_karras_sigmas=True, sigma_min=0.1, sigma_max=80.0)),
    ("noise_v_bh1_6", 6, dict(predict_x0=False, final_sigmas_type="sigma_min", prediction_type="v_prediction", solver_type="bh1")),
    ("sigma_min_high_6", 6, dict(final_sigmas_type="sigma_min", lower_order_final=False)), ("karras_sigma_min_6", 6, dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")),
    ("karras_range_6", 6, dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=20.0)), ("no_corrector_8", 8, dict(disable_corrector=[0, 1, 4])),
    ("karras_flat_end_6", 6, dict(use_karras_sigmas=True, final_sigmas_type="sigma_min", lower_order_final=False)),
    ("high_1", 1, dict(lower_order_final=False)),
] + spreads(1, "_sigma_min", final_sigmas_type="sigma_min") + ONE_MORE + [(f"order{o}_{k}_{n}", n, dict(solver_order=o, **c)) for o in (1, 3) for k, n, c in (
    ("plain", 9, {}), ("bh1", 9, BH1), ("trailing", 5, dict(timestep_spacing="trailing")), ("long", 30, {}),
    ("noise", 7, dict(predict_x0=False, final_sigmas_type="sigma_min", lower_order_final=False)))]
# The other cases of this class are single files.
DPM = CLIPS[-1:] + ONE_MORE + [("fixed_large_6", 6, dict(variance_type="fixed_large"))]

CASES = {
    "DDIMParallelScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "DDPMParallelScheduler": spacings(7) + [("threshold_8", 8, dict(thresholding=True, sample_max_value=1.5)), ("fixed_large_6", 6, dict(variance_type="fixed_large"))],
    "EulerDiscreteScheduler": EULER,
    "EulerAncestralDiscreteScheduler": ANCESTRAL,
    "PNDMScheduler": PNDM,
    "LCMScheduler": LCM,
    "UniPCMultistepScheduler": UNIPC,
    "DPMSolverMultistepScheduler": DPM,
}


def drawing(scheduler, drawn):
    """Makes the scheduler's module append what it draws to `drawn`."""
    module = importlib.import_module(type(scheduler).__module__)
    if not hasattr(module, "randn_tensor"):
        return
    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None):
        drawn.append(torch.randn(shape, generator=torch.Generator().manual_seed(1000 + len(drawn)), dtype=dtype))
        return drawn[-1]
    module.randn_tensor = randn_tensor


@torch.no_grad()
def record(scheduler, steps):
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else a list that begins with the same timestep twice is begun at its second place
    x = start * scheduler.init_noise_sigma
    drawn, states, noise = [], [x], []
    drawing(scheduler, drawn)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t)
        out = (0.8 * torch.sin(1.3 * seen.double() + float(t) / 250)).float()
        before = len(drawn)
        x = scheduler.step(out, t, x).prev_sample.float()
        states.append(x)
        noise.append(drawn[-1] if len(drawn) > before else torch.zeros(SHAPE))
    result = {"start": start, "states": torch.stack(states), "timesteps": scheduler.timesteps.float().clone()}
    if drawn:
        result["noise"] = torch.stack(noise)
    assert all(v.isfinite().all() for v in result.values())
    return result


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/data/schedulers"
    os.makedirs(folder, exist_ok=True)
    for name, cases in CASES.items():
        cls = getattr(diffusers, name)
        tensors, metadata = {}, {"class": name, "model": MODEL, "diffusers": diffusers.__version__}
        assert len({case for case, _, _ in cases}) == len(cases), name
        for case, steps, config in cases:
            known = inspect.signature(cls.__init__).parameters
            config = {k: v for k, v in config.items() if k in known}
            try:
                run = record(cls(**config), steps)
            except Exception as e:
                raise SystemExit(f"{name} {case}: {type(e).__name__}: {e}")
            metadata[f"case {case}"] = json.dumps({"config": config, "steps": steps}, sort_keys=True)
            tensors.update({f"{case}.{key}": value.contiguous() for key, value in run.items()})
        path = os.path.join(folder, f"{name}.safetensors")
        save_file(tensors, path, metadata)
        print(f"{path}: {len(cases)} cases, {os.path.getsize(path)} bytes")


main()
