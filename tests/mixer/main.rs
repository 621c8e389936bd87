//! A second family of networks, behind the cargo feature `mixer`, from its config to a resumed run with no C function of its own.

#[path = "../ffi_common/mod.rs"]
mod ffi_common;

use ffi_common::Api;
use ffi_common::host::Host;
use ffi_common::second_family;

#[test]
fn a_second_family_needs_no_function_of_its_own() {
    second_family::a_second_family(&Host::new(Api::load(), |api| api.runtime(2)));
}

#[test]
fn vectors_and_tokens_are_sampled_and_trained_with() {
    let host = Host::new(Api::load(), |api| api.runtime(2));
    second_family::vectors_and_tokens(&host);
    second_family::training_with_vectors_and_tokens(&host);
}

#[test]
#[ignore = "needs a driver, real or emulated: `make test-cuda`"]
fn nor_on_a_gpu() {
    second_family::a_second_family(&Host::new(Api::load(), Api::gpu));
}

#[test]
#[ignore = "needs a driver, real or emulated: `make test-cuda`"]
fn nor_do_vectors_and_tokens_on_a_gpu() {
    let host = Host::new(Api::load(), Api::gpu);
    second_family::vectors_and_tokens(&host);
    second_family::training_with_vectors_and_tokens(&host);
}
