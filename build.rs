//! Names the shared library for the dynamic linker.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // rustc already exports nothing from a cdylib but the functions of the C ABI; only the SONAME is missing. Its number is FEWSTEP_ABI_VERSION.
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if linux {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libfewstep.so.0");
    }
}
