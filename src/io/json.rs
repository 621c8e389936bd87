//! Configuration files as Python writes them: JSON with `Infinity` and `NaN`, missing keys, keys of other versions.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// An enum whose values have names in configuration files.
pub trait Named: Copy + PartialEq + 'static {
    /// What the enum is called in messages.
    const KIND: &'static str;
    /// Every accepted name with its value; the first name of a value is the one written.
    const NAMES: &'static [(&'static str, Self)];

    /// The name that files use.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("?", |(name, _)| name)
    }

    /// The value with this name.
    fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// Declares an enum and its [`Named`] table; further names after `|` are read, never written.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $crate::io::json::Named for $name {
            const KIND: &'static str = stringify!($name);
            const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$variant), $(($alias, Self::$variant),)*)+];
        }
    };
}
pub(crate) use named_enum;

/// Strings that stand for the numbers which JSON lacks, once [`parse`] has quoted them.
const NON_FINITE: [(&str, f64); 3] = [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];

/// No config comes near this. The parser's allocations cannot fail gracefully, so what it is given must be small.
const MAX_TEXT: usize = 16 << 20;

/// Parses JSON in Python's dialect. Bare `Infinity`, `-Infinity` and `NaN` come out as strings of that name.
pub(crate) fn parse(text: &str, file: &str) -> Result<Value> {
    if text.len() > MAX_TEXT {
        return Err(Error::corrupt(format!("{file}: {} bytes, a config has at most {MAX_TEXT}", text.len())));
    }
    let quoted = quote_non_finite(text);
    serde_json::from_str(&quoted).map_err(|e| Error::corrupt(format!("{file}: not valid JSON: {e}")))
}

/// Puts quotes around the bare non-finite words outside string literals.
fn quote_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let word = NON_FINITE.iter().map(|(word, _)| *word).find(|word| !in_string && rest.starts_with(word));
        let taken = match (word, c) {
            (Some(word), _) => {
                out.extend(["\"", word, "\""]);
                word.len()
            }
            // A backslash takes its next character along, so an escaped quote does not end the string.
            (None, '\\') if in_string => {
                let len = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..len]);
                len
            }
            (None, c) => {
                in_string ^= c == '"';
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Writes a config as diffusers does: sorted keys, two spaces, a final newline, bare `Infinity`.
pub(crate) fn to_text(mut map: Map<String, Value>) -> String {
    map.sort_keys();
    let mut text = serde_json::to_string_pretty(&Value::Object(map)).unwrap_or_default();
    // Only values are touched: no key or text of ours has these names.
    for (word, _) in NON_FINITE {
        text = text.replace(&format!(": \"{word}\""), &format!(": {word}"));
    }
    text.push('\n');
    text
}

/// A number as Python would write it: whole ones without a point.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Value::from(value as i64);
    }
    float(value)
}

/// A float as Python would write it; non-finite ones become the words that [`to_text`] leaves bare.
pub(crate) fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(
        || {
            let word = if value.is_nan() { 2 } else { usize::from(value > 0.0) };
            Value::from(NON_FINITE[word].0)
        },
        Value::Number,
    )
}

/// The keys of a config, taken one by one; what is left at the end was unknown.
pub(crate) struct Fields {
    file: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The keys of a JSON object.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        match parse(text, file)? {
            Value::Object(map) => Ok(Self { file: file.to_string(), map }),
            other => Err(Error::corrupt(format!("{file}: expected a JSON object, found {}", describe(&other)))),
        }
    }

    /// The file's name, for errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Takes a key; `None` when it is missing, which is not the same as null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key)
    }

    /// A key's value, which stays.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// Takes a key if it has this value, numbers compared as such.
    pub fn take_equal(&mut self, key: &str, value: &Value) -> Option<Value> {
        let same = |found: &Value| found == value || found.as_f64().is_some_and(|f| Some(f) == value.as_f64());
        if self.map.get(key).is_some_and(same) { self.take(key) } else { None }
    }

    /// The keys that nobody took, to be written back, and a sentence for each that is not in `known`. Keys with an underscore are diffusers' own notes. What is
    /// past `limit` bytes of text in all is not kept, which is a sentence too.
    pub fn rest(self, known: &[&str], limit: usize) -> (Map<String, Value>, Vec<String>) {
        let unknown = |k: &&String| !k.starts_with('_') && !known.contains(&k.as_str());
        let mut warnings: Vec<String> = self.map.keys().filter(unknown).map(|k| format!("{}: unknown key \"{k}\" is ignored", self.file)).collect();
        let (mut kept, mut size) = (Map::new(), 0usize);
        for (key, value) in self.map {
            let bytes = key.len().saturating_add(value.to_string().len());
            if size.saturating_add(bytes) > limit {
                warnings.push(format!("{}: the value of \"{key}\" is too large to be kept: saving the model loses it", self.file));
                continue;
            }
            size += bytes;
            kept.insert(key, value);
        }
        (kept, warnings)
    }

    /// The error of a key whose value cannot be meant.
    pub fn invalid(&self, key: &str, expected: impl std::fmt::Display, found: &Value) -> Error {
        Error::invalid(format!("{}: {key}: expected {expected}, found {}", self.file, describe(found)))
    }

    /// True or false; null counts as false, as in Python.
    pub fn bool(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(b),
            Some(Value::Null) => Ok(false),
            Some(other) => Err(self.invalid(key, "true or false", &other)),
        }
    }

    /// A whole number within a range.
    pub fn size(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => self.to_size(key, &value, range),
        }
    }

    /// A whole number within a range, or null.
    pub fn opt_size(&mut self, key: &str, default: Option<usize>, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => self.to_size(key, &value, range).map(Some),
        }
    }

    /// A list of whole numbers within a range.
    pub fn sizes(&mut self, key: &str, default: &[usize], range: RangeInclusive<usize>) -> Result<Vec<usize>> {
        match self.take(key) {
            None => Ok(default.to_vec()),
            Some(Value::Array(items)) => items.iter().map(|item| self.to_size(key, item, range.clone())).collect(),
            Some(other) => Err(self.invalid(key, "a list of whole numbers", &other)),
        }
    }

    /// Reads one value as a whole number within a range.
    pub fn to_size(&self, key: &str, value: &Value, range: RangeInclusive<usize>) -> Result<usize> {
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        let found = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        found.ok_or_else(|| self.invalid(key, wanted(), value))
    }

    /// A number that may be infinite.
    pub fn float(&mut self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let word = value.as_str().and_then(|s| NON_FINITE.iter().find(|(word, _)| *word == s)).map(|(_, number)| *number);
        value.as_f64().or(word).ok_or_else(|| self.invalid(key, "a number", &value))
    }

    /// A finite number that fulfils a condition, which `wanted` says in words.
    pub fn finite(&mut self, key: &str, default: f64, wanted: &str, ok: impl Fn(f64) -> bool) -> Result<f64> {
        let value = self.float(key, default)?;
        if value.is_finite() && ok(value) {
            return Ok(value);
        }
        Err(Error::invalid(format!("{}: {key}: expected {wanted}, found {value}", self.file)))
    }

    /// A text, or null; missing gives the default.
    pub fn opt_text(&mut self, key: &str, default: Option<&str>) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(default.map(str::to_string)),
            Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.invalid(key, "a text", &other)),
        }
    }

    /// One of an enum's names.
    pub fn choice<E: Named>(&mut self, key: &str, default: E) -> Result<E> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::String(s)) => self.to_choice(key, &s),
            Some(other) => Err(self.invalid(key, "a text", &other)),
        }
    }

    /// One of an enum's names, or null.
    pub fn opt_choice<E: Named>(&mut self, key: &str, default: Option<E>) -> Result<Option<E>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => self.to_choice(key, &s).map(Some),
            Some(other) => Err(self.invalid(key, "a text or null", &other)),
        }
    }

    /// Reads a name; an unknown one is refused with the names there are.
    pub fn to_choice<E: Named>(&self, key: &str, name: &str) -> Result<E> {
        E::from_name(name).ok_or_else(|| {
            let known = E::NAMES.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
            Error::unsupported(format!("{}: {key} \"{name}\" is not supported; supported: {known}", self.file))
        })
    }
}

/// A value in few words, for messages.
fn describe(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 60 {
        let end = (0..=60).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn python_words_are_numbers_outside_strings_only() {
        let mut f = Fields::parse(r#"{"a": -Infinity, "b": Infinity, "c": [NaN], "d": "Infinity \" NaN", "e": "ä\\", "f": NaN}"#, "t").unwrap();
        assert_eq!(f.float("a", 0.0).unwrap(), f64::NEG_INFINITY);
        assert_eq!(f.float("b", 0.0).unwrap(), f64::INFINITY);
        assert!(f.float("f", 0.0).unwrap().is_nan());
        assert_eq!(f.opt_text("d", None).unwrap().unwrap(), "Infinity \" NaN");
        assert_eq!(f.opt_text("e", None).unwrap().unwrap(), "ä\\");
    }

    #[test]
    fn infinity_is_written_bare_and_read_back() {
        let mut map = Map::new();
        map.insert("b".into(), float(f64::NEG_INFINITY));
        map.insert("a".into(), float(0.5));
        map.insert("c".into(), number(2.0));
        let text = to_text(map);
        assert_eq!(text, "{\n  \"a\": 0.5,\n  \"b\": -Infinity,\n  \"c\": 2\n}\n");
        assert_eq!(Fields::parse(&text, "t").unwrap().float("b", 0.0).unwrap(), f64::NEG_INFINITY);
    }

    #[test]
    fn bad_json_is_corrupt() {
        for text in ["", "{", "[1]", "nul", "{\"a\": xNaN}", "{\"a\\", "\"\\", "{\"a\": 1e999}", "{\"a\":1} x", &"[".repeat(100_000), &" ".repeat(MAX_TEXT + 1)]
        {
            let error = Fields::parse(text, "c.json").map(drop).unwrap_err();
            assert_eq!(error.status, Status::CorruptFile, "{text:.20}");
            assert!(error.message.starts_with("c.json"), "{error}");
        }
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let error = Fields::parse(&format!("{{\"a\": \"{}\"}}", "ä".repeat(500)), "t").unwrap().bool("a", true).unwrap_err();
        assert!(error.message.len() < 200 && error.message.contains("t: a: expected true or false"), "{error}");
    }
}
