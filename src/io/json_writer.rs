//! JSON as diffusers writes it: two spaces, one value a line, bare `Infinity` and `NaN`.
//!
//! A text is made in memory that may not be had, and is never longer than what is read again.

use super::json_reader::{MAX_TEXT, non_finite};
use crate::error::{Error, Result};
use crate::memory;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// A config: its own keys and those that are kept for their file's sake, which go before them, sorted; a final newline. `what` is its name in errors.
pub(crate) fn to_text(own: &Map<String, Value>, other: &Map<String, Value>, what: &str) -> Result<String> {
    let sorted: BTreeMap<&str, &Value> = own.iter().chain(other).map(|(key, value)| (key.as_str(), value)).collect();
    limited(MAX_TEXT, what, |w| {
        write_object(w, sorted.into_iter(), Some(0))?;
        w.write_all(b"\n")
    })
}

/// A value on one line.
pub(crate) fn compact(value: &Value, what: &str) -> Result<String> {
    limited(MAX_TEXT, what, |w| write_value(w, value, None))
}

/// A record of known fields on one line, of at most `most` bytes.
pub(crate) fn text_of(record: &impl Serialize, most: usize, what: &str) -> Result<String> {
    limited(most, what, |w| Ok(serde_json::to_writer(w, record)?))
}

/// What `write` writes, unless it is more than `most` bytes.
fn limited(most: usize, what: &str, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<String> {
    let mut text = Text { bytes: Vec::new(), most };
    write(&mut text).map_err(|e| match e.kind() {
        io::ErrorKind::OutOfMemory => Error::out_of_memory(format!("{what}: could not allocate its text")),
        io::ErrorKind::FileTooLarge => Error::unsupported(format!("{what}: more than {most} bytes of text, which would not be read again")),
        _ => Error::internal(format!("{what}: {e}")),
    })?;
    String::from_utf8(text.bytes).map_err(|e| Error::internal(format!("{what}: {e}")))
}

/// Bytes in memory that may not be had, and of which there may be only so many.
struct Text {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.bytes.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        memory::append(&mut self.bytes, bytes, "a text").map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a value, with the levels that it is indented by; on one line without.
pub(super) fn write_value(w: &mut dyn Write, value: &Value, indent: Option<usize>) -> io::Result<()> {
    match value {
        Value::Array(items) => write_items(w, b"[]", items.iter(), indent, |w, item, indent| write_value(w, item, indent)),
        Value::Object(map) => write_object(w, map.iter().map(|(key, value)| (key.as_str(), value)), indent),
        Value::String(text) => match non_finite(text) {
            Some((word, _)) => w.write_all(word.as_bytes()),
            None => Ok(serde_json::to_writer(w, text)?),
        },
        _ => Ok(serde_json::to_writer(w, value)?),
    }
}

fn write_object<'a>(w: &mut dyn Write, entries: impl Iterator<Item = (&'a str, &'a Value)>, indent: Option<usize>) -> io::Result<()> {
    write_items(w, b"{}", entries, indent, |w, (key, value), indent| {
        serde_json::to_writer(&mut *w, key)?;
        w.write_all(if indent.is_some() { b": " } else { b":" })?;
        write_value(w, value, indent)
    })
}

/// Writes brackets with items between them, each on a line of its own where lines are indented.
fn write_items<T>(
    w: &mut dyn Write,
    brackets: &[u8; 2],
    items: impl Iterator<Item = T>,
    indent: Option<usize>,
    mut write: impl FnMut(&mut dyn Write, T, Option<usize>) -> io::Result<()>,
) -> io::Result<()> {
    fn new_line(w: &mut dyn Write, indent: Option<usize>) -> io::Result<()> {
        indent.map_or(Ok(()), |levels| write!(w, "\n{:1$}", "", 2 * levels))
    }
    w.write_all(&brackets[..1])?;
    let (inner, mut empty) = (indent.map(|levels| levels + 1), true);
    for item in items {
        w.write_all(if empty { b"" } else { b"," })?;
        new_line(w, inner)?;
        write(w, item, inner)?;
        empty = false;
    }
    if !empty {
        new_line(w, indent)?;
    }
    w.write_all(&brackets[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use serde_json::json;

    /// serde_json shares no code with this but for numbers and texts.
    #[test]
    fn texts_are_those_of_serde_json() {
        let value = json!({"b": [1, 0.5, [], [[-1e-9, "ä\n\"\u{1}"]], {}], "a": {"y": null, "x": true}, "": "Infinity"});
        let Value::Object(map) = &value else { unreachable!("an object") };
        let pretty = to_text(map, &Map::new(), "t").unwrap();
        assert_eq!(pretty, format!("{}\n", serde_json::to_string_pretty(&value).unwrap()));
        assert_eq!(compact(&value, "t").unwrap(), value.to_string());
        assert_eq!(text_of(&value, 1000, "t").unwrap(), value.to_string());
    }

    #[test]
    fn other_keys_go_before_own_ones() {
        let maps = [json!({"a": 1, "c": 2}), json!({"b": 3, "c": 4})].map(|map| map.as_object().cloned().unwrap_or_default());
        assert_eq!(to_text(&maps[0], &maps[1], "t").unwrap(), "{\n  \"a\": 1,\n  \"b\": 3,\n  \"c\": 4\n}\n");
    }

    #[test]
    fn a_text_has_as_many_bytes_as_are_read() {
        let value = json!(["x".repeat(MAX_TEXT - 4)]);
        assert_eq!(compact(&value, "t").unwrap().len(), MAX_TEXT);
        for (found, most) in [(compact(&json!(["x".repeat(MAX_TEXT - 3)]), "t"), MAX_TEXT), (text_of(&value, 9, "t"), 9)] {
            let error = found.unwrap_err();
            assert!(error.status == Status::Unsupported && error.message.starts_with(&format!("t: more than {most} bytes")), "{error}");
        }
    }
}
