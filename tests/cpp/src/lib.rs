//! include/fewstep.hpp, carried to Rust tests by cxx.
//!
//! Which library the C++ calls: the shim refers to the functions of the C header, and `use fewstep as _` puts the rlib of this very build behind it in the
//! link, whose `no_mangle` functions resolve them. Cargo does not tell dependents where a cdylib lies, so linking the .so from build.rs would mean guessing
//! a path that may hold the library of an earlier build. The .so itself is tested by tests/standalone.rs, at run time, where its place is known.

use fewstep as _;

/// What the shim offers; src/shim.cpp has the bodies. An error's text is the status' name, a colon, and the sentence.
#[allow(missing_docs)] // one line of C++ each, named after what it calls
#[cxx::bridge(namespace = "fewstep_tests")]
pub mod ffi {
    // SAFETY: src/shim.hpp declares the same functions (cxx compares them); none keeps a reference to an argument beyond its call.
    unsafe extern "C++" {
        include!("fewstep-tests-cpp/src/shim.hpp");

        type Journal;
        type Runtime;
        type Model;
        type Sampler;
        type Dataset;
        type Trainer;
        type CancelToken;

        fn journal() -> SharedPtr<Journal>;
        fn journal_lines(journal: &SharedPtr<Journal>) -> Vec<String>;
        fn journal_owners(journal: &SharedPtr<Journal>) -> usize;

        fn device_count(device: i32) -> Result<u32>;
        fn device_name(device: i32, index: i32) -> Result<String>;

        fn runtime(threads: u32) -> Result<UniquePtr<Runtime>>;
        fn threads(runtime: &Runtime) -> Result<u32>;
        fn runtime_device(runtime: &Runtime) -> Result<String>;
        fn logging_runtime(journal: &SharedPtr<Journal>, throws: bool) -> Result<UniquePtr<Runtime>>;
        fn assign_runtime(to: UniquePtr<Runtime>, from: UniquePtr<Runtime>) -> UniquePtr<Runtime>;

        fn open(runtime: &Runtime, path: &str) -> Result<UniquePtr<Model>>;
        fn open_variant(runtime: &Runtime, path: &str, variant: &str) -> Result<UniquePtr<Model>>;
        fn open_memory(runtime: &Runtime, config: &str, scheduler: &str, weights: &[u8]) -> Result<UniquePtr<Model>>;
        fn open_buffer(runtime: &Runtime, file: &[u8]) -> Result<UniquePtr<Model>>;
        fn create(runtime: &Runtime, config: &str) -> Result<UniquePtr<Model>>;
        fn derive_student(runtime: &Runtime, teacher: &Model) -> Result<UniquePtr<Model>>;
        fn quantize(runtime: &Runtime, student: &Model) -> Result<UniquePtr<Model>>;
        fn quantized_layers(model: &Model) -> u32;
        fn quality_report(runtime: &Runtime, teacher: &Model, student: &Model, format: i32, throw_at: u64) -> Result<String>;
        fn first_student(runtime: &Runtime, teacher: &Model, most: u64, throw_at: u64) -> Result<String>;
        fn reported_layers(runtime: &Runtime, student: &Model, quantized: &Model) -> Result<usize>;
        fn save(model: &Model, path: &str) -> Result<()>;
        fn save_file(model: &Model, path: &str) -> Result<()>;
        fn export_onnx(model: &Model, path: &str) -> Result<()>;
        fn onnx_bytes(model: &Model, opset: u32) -> Result<Vec<u8>>;
        fn parameters(model: &Model) -> Result<u64>;
        fn classes(model: &Model) -> Result<u32>;
        fn pairs(model: &Model) -> Result<Vec<i32>>;

        fn sampler(runtime: &Runtime, model: &Model, steps: u32, batch: u32) -> Result<UniquePtr<Sampler>>;
        fn begin(sampler: Pin<&mut Sampler>, seed: u64, labels: &[i32], first_index: u32) -> Result<()>;
        fn begin_from(sampler: Pin<&mut Sampler>, noise: &[f32], labels: &[i32]) -> Result<()>;
        fn step(sampler: Pin<&mut Sampler>, budget_us: i64) -> Result<bool>;
        fn run(sampler: Pin<&mut Sampler>) -> Result<()>;
        fn run_until_token(sampler: Pin<&mut Sampler>, token: &CancelToken) -> Result<()>;
        fn run_counting(sampler: Pin<&mut Sampler>) -> Result<u64>;
        fn run_cancelling(sampler: Pin<&mut Sampler>, at: u64) -> Result<()>;
        fn run_throwing(sampler: Pin<&mut Sampler>, at: u64) -> Result<()>;
        fn run_throwing_a_number(sampler: Pin<&mut Sampler>, number: i32) -> Result<i32>;
        fn run_destroying(sampler: UniquePtr<Sampler>) -> Result<()>;
        fn steps_done(sampler: Pin<&mut Sampler>) -> Result<u32>;
        fn read(sampler: Pin<&mut Sampler>) -> Result<Vec<f32>>;
        fn noise(sampler: Pin<&mut Sampler>, seed: u64, first_index: u32, count: usize) -> Result<Vec<f32>>;
        fn sample(runtime: &Runtime, model: &Model, steps: u32, seed: u64, labels: &[i32]) -> Result<Vec<f32>>;
        fn sample_until_token(runtime: &Runtime, model: &Model, steps: u32, labels: &[i32], token: &CancelToken) -> Result<()>;
        fn move_sampler(from: UniquePtr<Sampler>, to: UniquePtr<Sampler>) -> UniquePtr<Sampler>;
        fn use_after_move(sampler: UniquePtr<Sampler>) -> Result<()>;

        fn cancel_token() -> Result<UniquePtr<CancelToken>>;
        fn cancel(self: &CancelToken) -> Result<()>;
        fn reset(self: &CancelToken) -> Result<()>;
        fn is_cancelled(self: &CancelToken) -> Result<bool>;

        fn open_npz(runtime: &Runtime, path: &str) -> Result<UniquePtr<Dataset>>;
        fn copy_dataset(runtime: &Runtime, pixels: &[u8]) -> Result<UniquePtr<Dataset>>;
        fn open_npy(runtime: &Runtime, path: &str) -> Result<UniquePtr<Dataset>>;
        fn open_folder(runtime: &Runtime, path: &str, throw_at: u64) -> Result<UniquePtr<Dataset>>;
        fn fill_dataset(runtime: &Runtime, count: usize, throws: bool) -> Result<UniquePtr<Dataset>>;
        fn class_names(dataset: &Dataset) -> Result<Vec<String>>;
        fn skipped(dataset: &Dataset) -> Result<Vec<String>>;
        fn images(dataset: &Dataset) -> Result<u64>;

        fn data_trainer(runtime: &Runtime, student: &Model, dataset: &Dataset) -> Result<UniquePtr<Trainer>>;
        fn distiller(runtime: &Runtime, student: &Model, teacher: &Model) -> Result<UniquePtr<Trainer>>;
        fn by_recipe(runtime: &Runtime, student: &Model, teacher: &Model, folder: &str, stop_at: u64) -> Result<UniquePtr<Model>>;
        fn taught(runtime: &Runtime, student: &Model, level: f32, path: &str) -> Result<UniquePtr<Trainer>>;
        fn prepare(trainer: Pin<&mut Trainer>) -> Result<u64>;
        fn train(trainer: Pin<&mut Trainer>, steps: u64) -> Result<()>;
        fn train_throwing(trainer: Pin<&mut Trainer>, steps: u64, at: u64) -> Result<()>;
        fn train_step(trainer: Pin<&mut Trainer>) -> Result<u64>;
        fn evaluate(trainer: Pin<&mut Trainer>, seed: u64) -> Result<f32>;
        fn losses(trainer: Pin<&mut Trainer>) -> Result<Vec<f32>>;
        fn snapshot(trainer: Pin<&mut Trainer>) -> Result<UniquePtr<Model>>;
        fn save_training(trainer: Pin<&mut Trainer>, path: &str) -> Result<()>;
        fn resume_training(trainer: Pin<&mut Trainer>, path: &str) -> Result<()>;
        fn resume_training_with(trainer: Pin<&mut Trainer>, path: &str, changes: u32) -> Result<()>;
        fn training_steps(trainer: Pin<&mut Trainer>) -> Result<u64>;
    }
}

// SAFETY: fewstep.hpp: every member function of a token may run at any time, on any thread.
unsafe impl Sync for ffi::CancelToken {}

/// A file of the demo's data, such as "digits_teacher".
pub fn data(name: &str) -> String {
    format!("{}/../../examples-c/data/{name}", env!("CARGO_MANIFEST_DIR"))
}
