//! Files: safetensors, diffusers folders and configs, npy/npz arrays and pictures, written as PNG, read as PNG and JPEG.
//!
//! This room knows tensors, texts and where they lie; what a network's config says is for `nn` to know. Every file is hostile until proven otherwise: sizes are checked arithmetic,
//! allocations that follow from a file are fallible, and an error names the file, the tensor or key, what was expected and what was found.

pub mod chart;
pub mod diffusers;
pub mod events;
pub mod file;
pub(crate) mod folder;
mod font;
mod foreign;
pub(crate) mod hashing;
pub mod image;
pub mod json;
mod json_reader;
pub(crate) mod json_writer;
mod layout;
pub mod model_file;
pub mod npy;
pub mod picture;
pub mod picture_folder;
mod picture_header;
mod png;
pub mod record;
pub mod resample;
pub mod safetensors;
mod scheduler_class;
pub mod scheduler_config;
mod scheduler_names;
mod target;
mod temporary;
mod weights;
pub mod zip;

pub use diffusers::{KnownNetworks, ModelFiles, NetworkText, save_model};
pub use image::{GridRow, ImageShape, save_grid, save_png};
pub use layout::ModelPaths;
pub use model_file::save_model_file;
pub use npy::{NpzFile, save_npy};
pub use picture::Picture;
pub use safetensors::TensorFile;
pub use scheduler_config::SchedulerConfig;

/// The version of diffusers whose files these are; written as `_diffusers_version`.
pub const DIFFUSERS_VERSION: &str = "0.42.1";

#[cfg(test)]
pub(crate) mod test_util {
    use super::{KnownNetworks, ModelFiles, NetworkText, json};
    use crate::error::Result;
    use serde_json::Value;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A network is what its config.json says: this room needs no more.
    pub const KNOWN: KnownNetworks<Value> = KnownNetworks {
        parse: json::parse,
        is_network: |config| config["_class_name"].as_str().map_or_else(|| config.get("block_out_channels").is_some(), |class| class.starts_with("UNet")),
    };

    /// A config.json.
    pub const CONFIG: &str = r#"{"_class_name":"UNet2DModel","in_channels":3}"#;

    /// A network of this config.json, to be saved.
    pub fn network(config: &str) -> NetworkText<'_> {
        NetworkText { class: "UNet2DModel", config }
    }

    /// Opens the model of a folder.
    pub fn open(folder: &Path, variant: Option<&str>) -> Result<ModelFiles<Value>> {
        ModelFiles::open(folder, variant, &KNOWN)
    }

    /// A folder of its own for one test, removed when the test is over.
    pub struct TestDir(PathBuf);

    impl TestDir {
        pub fn new(name: &str) -> Self {
            static MADE: AtomicUsize = AtomicUsize::new(0);
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("fewstep-io-{}-{number}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        pub fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
