//! Builds the C++ of the tests. Nothing of it goes into libfewstep: the package that makes the library has no C++ in its build.

fn main() {
    bridge();
}

/// The shim over include/fewstep.hpp that the Rust tests drive.
fn bridge() {
    for path in ["src/lib.rs", "src/shim.hpp", "src/shim.cpp", "../../include/fewstep.h", "../../include/fewstep.hpp"] {
        println!("cargo:rerun-if-changed={path}");
    }
    cxx_build::bridge("src/lib.rs").file("src/shim.cpp").include("../../include").std("c++17").compile("fewstep_tests_bridge");
}
