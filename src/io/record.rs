//! `fewstep.json`, our own record in a model folder: which files belong together, and a student's grid.
//!
//! ```json
//! {"version": 1, "parts": {"unet/config.json": {"sha256": "…"}, …}, "pairs": [[999, 499], [499, -1]], "teacher_substeps": 25}
//! ```
//! Every model has `parts`, students have the rest too. Folders of other programs have no record, records of earlier builds have no `parts`.

use crate::error::{Error, Result};
use crate::io::json::describe;
use crate::io::json_writer;
use crate::memory;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Version of the record: what is written, and all that is read.
pub const VERSION: u32 = 1;
/// The folder of the network, within a pipeline's.
pub const NETWORK: &str = "unet";
/// The network's configuration.
pub const CONFIG: &str = "unet/config.json";
/// Its weights.
pub const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
/// The scheduler's configuration.
pub const SCHEDULER: &str = "scheduler/scheduler_config.json";
/// What the pipeline is made of, for diffusers.
pub const INDEX: &str = "model_index.json";
/// The record itself.
pub const RECORD: &str = "fewstep.json";
/// The files that a save writes, by their paths in a pipeline's folder.
pub const PARTS: [&str; 5] = [WEIGHTS, CONFIG, SCHEDULER, INDEX, RECORD];
/// A student's grid, pairs of timesteps (t, t_next).
pub const PAIRS: &str = "pairs";
/// What each step of a student's grid has of its own, where it has anything.
pub const PER_STEP: &str = "per_step_weights";
/// What a model in whole numbers computes in.
pub const QUANTIZATION: &str = "quantization";
const KEY: &str = "parts";
const SHA256: &str = "sha256";

/// The hashes of a folder's files, by their names in a pipeline's folder.
#[derive(Debug)]
pub(super) struct Parts {
    hashes: BTreeMap<String, String>,
    /// The record's name in messages.
    name: String,
}

impl Parts {
    /// The parts that a record names; `None` when it names none.
    pub fn read(record: &Value, name: &str) -> Result<Option<Self>> {
        let version = &record["version"];
        if version.is_u64() && *version != VERSION {
            return Err(Error::version(format!("{name}: version {version}; this library reads version {VERSION}")));
        }
        let Some(parts) = record.get(KEY) else { return Ok(None) };
        let entry = |(part, entry): (&String, &Value)| {
            let hash = entry[SHA256].as_str().filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((part.clone(), hash.to_ascii_lowercase()))
        };
        let hashes = parts.as_object().and_then(|map| map.iter().map(entry).collect::<Option<_>>());
        let hashes = hashes.ok_or_else(|| Error::corrupt(format!("{name}: {KEY:?} must give each file an object with its {SHA256:?}")))?;
        Ok(Some(Self { hashes, name: name.to_string() }))
    }

    /// Whether the record names this part.
    pub fn names(&self, part: &str) -> bool {
        self.hashes.contains_key(part)
    }

    /// Refuses a file that is not the one which was saved as this part.
    pub fn check(&self, part: &str, path: &Path, found: &str) -> Result<()> {
        match self.hashes.get(part).map(String::as_str) {
            Some(expected) if expected == found => Ok(()),
            Some(expected) => Err(Error::corrupt(format!(
                "{}: is not the file that was saved with {}: SHA-256 {found}, expected {expected}; parts of two models are mixed, or one was changed. {}",
                path.display(),
                self.name,
                self.way_out()
            ))),
            None => Err(Error::corrupt(format!("{}: {} does not name {part} among its parts. {}", path.display(), self.name, self.way_out()))),
        }
    }

    /// The error of a part that is not there.
    pub fn missing(&self, part: &str) -> Error {
        Error::not_found(format!("{part}: no such file, but {} names it. {}", self.name, self.way_out()))
    }

    fn way_out(&self) -> String {
        format!("If that was meant, delete {}, or only its {KEY:?} to keep a student's grid", self.name)
    }
}

/// The text of a record: a student's own, if there is one, with the hashes of its parts.
pub(super) fn to_text(student: Option<&Value>, parts: &[(&str, String)]) -> Result<String> {
    let mut map = match student {
        Some(Value::Object(map)) => map.clone(),
        Some(_) => return Err(Error::internal("a student's record is no object")),
        None => Map::from_iter([("version".to_string(), json!(VERSION))]),
    };
    let hashes: Map<String, Value> = parts.iter().map(|(part, hash)| (part.to_string(), json!({SHA256: hash}))).collect();
    map.insert(KEY.into(), Value::Object(hashes));
    json_writer::to_text(&map, &Map::new(), RECORD)
}

/// Whether a record has a student's grid, or only names parts.
pub fn is_student(record: &Value) -> bool {
    record.get(PAIRS).is_some() || (record.get(KEY).is_none() && record.get(QUANTIZATION).is_none())
}

/// The grid that a record has; as long as the file likes.
pub fn pairs(record: &Value) -> Result<Vec<(i64, i64)>> {
    let wrong = |key: &str, expected: &str, found: &_| Error::corrupt(format!("{key}: expected {expected}, found {}", describe(found)));
    let list = record[PAIRS].as_array().ok_or_else(|| wrong(PAIRS, "a list of pairs", &record[PAIRS]))?;
    let mut pairs = memory::with_capacity(list.len(), PAIRS)?;
    for (i, pair) in list.iter().enumerate() {
        let numbers = pair.as_array().and_then(|p| if let [t, next] = &p[..] { Some((t.as_i64()?, next.as_i64()?)) } else { None });
        pairs.push(numbers.ok_or_else(|| wrong(&format!("{PAIRS}[{i}]"), "2 timesteps", pair))?);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn a_record_names_parts_and_keeps_what_a_student_has() {
        let hash = "AB".repeat(32);
        let student = json!({"version": 1, "pairs": [[9, -1]], "teacher_substeps": 3});
        for (student, is) in [(Some(&student), true), (None, false)] {
            let value: Value = serde_json::from_str(&to_text(student, &[("a/b", hash.clone())]).unwrap()).unwrap();
            assert_eq!((is_student(&value), value.get("pairs").is_some()), (is, is));
            let parts = Parts::read(&value, "m/fewstep.json").unwrap().unwrap();
            parts.check("a/b", Path::new("m/a/b"), &hash.to_ascii_lowercase()).unwrap();
            for (part, found) in [("a/b", "cd"), ("a/c", hash.as_str())] {
                let error = parts.check(part, Path::new("m/file"), found).unwrap_err();
                assert_eq!(error.status, Status::CorruptFile);
                assert!(error.message.starts_with("m/file: ") && error.message.contains("delete m/fewstep.json"), "{error}");
            }
        }
    }

    #[test]
    fn records_without_parts_are_read_and_damaged_ones_refused() {
        assert!(Parts::read(&json!({"version": 1, "pairs": []}), "r").unwrap().is_none());
        for parts in
            [json!(null), json!([]), json!({"a": "b"}), json!({"a": {"sha256": 7}}), json!({"a": {"sha256": "00"}}), json!({"a": {"sha256": "g".repeat(64)}})]
        {
            let error = Parts::read(&json!({"version": 1, "parts": parts}), "r").unwrap_err();
            assert_eq!(error.status, Status::CorruptFile, "{parts}");
        }
        assert_eq!(Parts::read(&json!({"version": 2}), "r").unwrap_err().status, Status::VersionMismatch);
    }
}
