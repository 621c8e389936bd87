//! Placeholder until the toolchain branch is merged.
#[derive(Debug)]
pub(crate) struct KernelInfo { pub name: &'static str, pub module: usize, pub max_threads: u32, pub params: &'static [u32] }
pub(crate) struct Module { pub name: &'static str, pub fatbin: &'static [u8] }
pub(crate) static MODULES: &[Module] = &[Module { name: "all", fatbin: b"\x50\xed\x55\xba\x01\0\x10\0\0\0\0\0\0\0\0\0" }];
pub(crate) static KERNELS: &[KernelInfo] = &[
    KernelInfo { name: "fewstep_adamw_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 8, 8, 32] },
    KernelInfo { name: "fewstep_affine_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_avg_pool2x_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_binary_broadcast_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 48] },
    KernelInfo { name: "fewstep_binary_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4] },
    KernelInfo { name: "fewstep_cast_i32_f32", module: 0, max_threads: 256, params: &[8, 8, 4] },
    KernelInfo { name: "fewstep_clip_scale_f32", module: 0, max_threads: 32, params: &[8, 8, 8, 4, 4] },
    KernelInfo { name: "fewstep_combine_f32", module: 0, max_threads: 256, params: &[8, 64, 8, 4, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_concat_32", module: 0, max_threads: 256, params: &[96, 8, 4, 4] },
    KernelInfo { name: "fewstep_copy_32", module: 0, max_threads: 256, params: &[8, 8, 4] },
    KernelInfo { name: "fewstep_dynamic_threshold_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_ema_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 8] },
    KernelInfo { name: "fewstep_gather_32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_gather_f16_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_gather_grad_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_int_affine_i32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_norm_f32", module: 0, max_threads: 256, params: &[8, 8, 4] },
    KernelInfo { name: "fewstep_random_int_i32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_random_normal_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 8, 4, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_square_sums_f32", module: 0, max_threads: 256, params: &[8, 8, 8] },
    KernelInfo { name: "fewstep_sum_columns_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4] },
    KernelInfo { name: "fewstep_sum_parts_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_sum_runs_f32", module: 0, max_threads: 256, params: &[8, 8, 4] },
    KernelInfo { name: "fewstep_timestep_embedding_f32", module: 0, max_threads: 128, params: &[8, 8, 8, 4, 4, 4] },
    KernelInfo { name: "fewstep_unary_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_unary_grad_f32", module: 0, max_threads: 256, params: &[8, 8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_upsample2x_f32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4, 4] },
    KernelInfo { name: "fewstep_window_32", module: 0, max_threads: 256, params: &[8, 8, 4, 4, 4, 4] },
];
pub(crate) fn built() -> bool { !KERNELS.is_empty() }
pub(crate) fn find(name: &str) -> Option<&'static KernelInfo> { KERNELS.iter().find(|k| k.name == name) }
