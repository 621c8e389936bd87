//! Placeholder until the toolchain branch is merged.
#[derive(Debug)]
pub(crate) struct KernelInfo {
    pub name: &'static str,
    pub module: usize,
    pub max_threads: u32,
    pub params: &'static [u32],
}
pub(crate) struct Module {
    pub name: &'static str,
    pub fatbin: &'static [u8],
}
pub(crate) static MODULES: &[Module] = &[];
pub(crate) static KERNELS: &[KernelInfo] = &[];
pub(crate) fn built() -> bool {
    !KERNELS.is_empty()
}
pub(crate) fn find(name: &str) -> Option<&'static KernelInfo> {
    KERNELS.iter().find(|k| k.name == name)
}
