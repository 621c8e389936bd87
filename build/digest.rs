//! The name of a thing by its contents.

use std::hash::{DefaultHasher, Hash, Hasher};

/// 64 bits as hexadecimal digits. Another Rust version may give other ones: then everything is compiled once more.
pub fn digest(contents: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
