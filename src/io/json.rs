//! Configuration files as Python writes them: JSON with `Infinity` and `NaN`, missing keys, keys of other versions.

use crate::error::{Error, Result};
use crate::io::file;
pub(crate) use crate::io::json_reader::MAX_TEXT;
use crate::io::json_reader::{MARK, NON_FINITE, Reader, non_finite};
use crate::io::json_writer::write_value;
use crate::memory;
use crate::names::Named;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::Path;

/// Values in a text, of whatever kind. They take 32 bytes each.
const MAX_VALUES: usize = 1 << 19;
/// Keys in a text, which take up to 1 KiB each, in small pieces. An index of a model in several files has one for each tensor.
const MAX_KEYS: usize = 20_000;
/// Bytes of a key.
const MAX_KEY: usize = 1024;
/// Items of a list, where they are not one for each timestep.
pub(crate) const MAX_LIST: usize = 1024;
/// Unknown keys of a config, and tensors of no use, that are named one by one.
pub(crate) const SHOWN_KEYS: usize = 50;

/// The text of a file that is to be parsed, if it is no larger than one can be.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    file::read_text(path, MAX_TEXT as u64)
}

/// Parses JSON in Python's dialect. Bare `Infinity`, `-Infinity` and `NaN` come out as strings that no text is equal to.
pub fn parse(text: &str, file: &str) -> Result<Value> {
    if text.len() > MAX_TEXT {
        return Err(Error::corrupt(format!("{file}: {} bytes; at most {MAX_TEXT} are read as JSON", text.len())));
    }
    // Some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { reader: Reader::new(text, 0), values: MAX_VALUES, keys: MAX_KEYS };
    builder.value().and_then(|value| builder.reader.end().map(|()| value)).map_err(|e| e.context(file))
}

/// [`parse`] into a record of known fields.
pub(crate) fn parse_record<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    record(parse(text, file)?, file)
}

/// A record of known fields, of what [`parse`] gave.
pub(crate) fn record<T: DeserializeOwned>(value: Value, file: &str) -> Result<T> {
    serde_json::from_value(value).map_err(|e| {
        // It names the value, which may be as long as the text.
        let mut shown = Beginning(Vec::with_capacity(4 * SHOWN));
        let _ = write!(shown, "{e}");
        Error::corrupt(format!("{file}: {}", String::from_utf8_lossy(&shown.0)))
    })
}

/// Makes a tree of a text, within limits that bound its memory; lists and texts in it are allocated fallibly.
struct Builder<'a> {
    reader: Reader<'a>,
    /// How many more there may be.
    values: usize,
    keys: usize,
}

impl Builder<'_> {
    fn value(&mut self) -> Result<Value> {
        self.values = self.values.checked_sub(1).ok_or_else(|| self.reader.refused(&format!("more than {MAX_VALUES} values")))?;
        match self.reader.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => {
                let text = self.reader.string()?;
                if non_finite(&text).is_some() {
                    return Err(self.reader.refused("a text that would be taken for a number"));
                }
                self.reader.owned(text).map(Value::String)
            }
            _ => self.scalar(),
        }
    }

    fn object(&mut self) -> Result<Value> {
        let mut map = Map::new();
        self.reader.open('{')?;
        while let Some(key) = self.reader.next_key(map.is_empty())? {
            self.keys = self.keys.checked_sub(1).ok_or_else(|| self.reader.refused(&format!("more than {MAX_KEYS} keys")))?;
            if key.len() > MAX_KEY {
                return Err(self.reader.refused(&format!("a key of {} bytes, at most {MAX_KEY} are possible", key.len())));
            }
            let key = self.reader.owned(key)?;
            let value = self.value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn array(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        self.reader.open('[')?;
        while self.reader.next_item(items.is_empty())? {
            let item = self.value()?;
            self.reader.push(&mut items, item)?;
        }
        Ok(Value::Array(items))
    }

    fn scalar(&mut self) -> Result<Value> {
        const WORDS: [(&str, Value); 3] = [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        if let Some((_, value)) = WORDS.into_iter().find(|(word, _)| self.reader.word(word)) {
            return Ok(value);
        }
        match NON_FINITE.iter().find(|(word, _)| self.reader.word(word)) {
            Some((_, number)) => Ok(float(*number)),
            None => self.reader.number().map(Value::Number),
        }
    }
}

/// A number as Python would write it: whole ones without a point.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Value::from(value as i64);
    }
    float(value)
}

/// A float as Python would write it; non-finite ones become strings that are written as bare words.
pub(crate) fn float(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(
        || {
            let word = if value.is_nan() { 2 } else { usize::from(value > 0.0) };
            Value::String(format!("{MARK}{}", NON_FINITE[word].0))
        },
        Value::Number,
    )
}

/// A list of floats, which may be a long one.
pub(crate) fn floats(values: &[f64], what: &str) -> Result<Value> {
    memory::collect(values.iter().map(|value| float(*value)), what).map(Value::Array)
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
        self.map.remove(key)
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
        let unknown = || self.map.keys().filter(|k| !k.starts_with('_') && !known.contains(&k.as_str()));
        let mut warnings: Vec<String> = unknown().take(SHOWN_KEYS).map(|k| format!("{}: unknown key \"{k}\" is ignored", self.file)).collect();
        let more = unknown().count().saturating_sub(SHOWN_KEYS);
        warnings.extend((more > 0).then(|| format!("{}: {more} more unknown keys are ignored", self.file)));
        let (mut kept, mut left, mut lost) = (Map::new(), Count(limit), 0);
        for (key, value) in self.map {
            let before = left.0;
            if serde_json::to_writer(&mut left, &value).is_ok() && left.0 >= key.len() {
                left.0 -= key.len();
                kept.insert(key, value);
            } else {
                (left.0, lost) = (before, lost + 1);
            }
        }
        let large = || format!("{}: {lost} unknown keys are too large to be kept (more than {limit} bytes): saving the model loses them", self.file);
        warnings.extend((lost > 0).then(large));
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
            Some(Value::Array(items)) => self.list(key, &items, MAX_LIST, |item| self.to_size(key, item, range.clone())),
            Some(other) => Err(self.invalid(key, "a list of whole numbers", &other)),
        }
    }

    /// What `read` makes of the items of a list, of which there are at most `max`.
    pub fn list<T>(&self, key: &str, items: &[Value], max: usize, read: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
        let n = items.len();
        if n > max {
            return Err(Error::invalid(format!("{}: {key}: expected a list of at most {max} items, found {n}", self.file)));
        }
        let mut out = Vec::new();
        out.try_reserve_exact(n).map_err(|_| Error::out_of_memory(format!("{}: {key}: could not allocate {n} items", self.file)))?;
        items.iter().try_for_each(|item| read(item).map(|value| out.push(value)))?;
        Ok(out)
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
        // Programs without the bare words write them in quotes.
        let word = value.as_str().and_then(|s| NON_FINITE.into_iter().find(|(word, _)| *word == s).or(non_finite(s))).map(|(_, number)| number);
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
            Some(Value::String(s)) if non_finite(&s).is_none() => Ok(Some(s)),
            Some(other) => Err(self.invalid(key, "a text", &other)),
        }
    }

    /// One of an enum's names.
    pub fn choice<E: Named>(&mut self, key: &str, default: E) -> Result<E> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::String(s)) if non_finite(&s).is_none() => self.to_choice(key, &s),
            Some(other) => Err(self.invalid(key, "a text", &other)),
        }
    }

    /// One of an enum's names, or null.
    pub fn opt_choice<E: Named>(&mut self, key: &str, default: Option<E>) -> Result<Option<E>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(Value::String(s)) if non_finite(&s).is_none() => self.to_choice(key, &s).map(Some),
            Some(other) => Err(self.invalid(key, "a text or null", &other)),
        }
    }

    /// Reads a name; an unknown one is refused with the names there are.
    pub fn to_choice<E: Named>(&self, key: &str, name: &str) -> Result<E> {
        E::from_name(name).ok_or_else(|| {
            let known = E::NAMES.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
            Error::unsupported(format!("{}: {key} \"{}\" is not supported; supported: {known}", self.file, shorten(name)))
        })
    }
}

/// A value in few words, for messages.
pub(crate) fn describe(value: &Value) -> String {
    // A config's value may be as long as its text: no more of it is written than is shown.
    let mut out = Beginning(Vec::with_capacity(2 * SHOWN));
    let _ = write_value(&mut out, value, None);
    shorten(&String::from_utf8_lossy(&out.0)).into_owned()
}

/// Bytes of a value that messages show.
const SHOWN: usize = 60;

/// The beginning of a text that may be long.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN {
        return Cow::Borrowed(text);
    }
    let end = (0..=SHOWN).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// Bytes that may still be written, to nowhere.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes so many bytes and refuses more.
struct Beginning(Vec<u8>);

impl io::Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.0.capacity() - self.0.len());
        self.0.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use crate::io::json_writer::to_text;

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
    fn words_are_no_texts_and_texts_no_words() {
        let mut f = Fields::parse(r#"{"a": NaN, "b": [Infinity], "c": Infinity}"#, "t").unwrap();
        let (list, number) = (f.take("b").unwrap(), f.take("c").unwrap());
        assert!(f.invalid("b", "texts", &list).message.ends_with("found [Infinity]") && f.invalid("c", "texts", &number).message.ends_with("found Infinity"));
        assert!(f.opt_text("a", None).unwrap_err().message.ends_with("expected a text, found NaN"));
        assert_eq!(parse(&format!("[\"{MARK}NaN\"]"), "t").unwrap_err().status, Status::CorruptFile);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(parse("\u{feff}{\"a\": 1}\r\n", "t").unwrap()["a"], 1);
    }

    #[test]
    fn infinity_is_written_bare_and_read_back() {
        let mut map = Map::new();
        map.insert("b".into(), float(f64::NEG_INFINITY));
        map.insert("a".into(), float(0.5));
        map.insert("c".into(), number(2.0));
        let text = to_text(&map, &Map::new(), "t").unwrap();
        assert_eq!(text, "{\n  \"a\": 0.5,\n  \"b\": -Infinity,\n  \"c\": 2\n}\n");
        assert_eq!(Fields::parse(&text, "t").unwrap().float("b", 0.0).unwrap(), f64::NEG_INFINITY);
    }

    /// Numbers that JSON lacks stay numbers and texts of the same name stay texts, at every depth of what is only kept.
    #[test]
    fn unknown_values_are_written_back_as_they_were() {
        let text = r#"{"_class_name": "DDIMScheduler", "a": [NaN, {"b": -Infinity}], "c": "Infinity", "d": "x\": \"NaN", "e": {}, "f": [], "g": [[0.5, "ä\n"]], "z": Infinity}"#;
        let config = crate::io::SchedulerConfig::parse(text, "t").unwrap();
        let written = config.to_json().unwrap();
        let kept = [
            "\"a\": [\n    NaN,\n    {\n      \"b\": -Infinity\n    }\n  ]",
            "\"c\": \"Infinity\"",
            r#""d": "x\": \"NaN""#,
            "\"e\": {}",
            "\"f\": []",
            "\"z\": Infinity",
        ];
        kept.iter().for_each(|part| assert!(written.contains(part), "{part}: {written}"));
        assert_eq!(crate::io::SchedulerConfig::parse(&written, "t").unwrap().other, config.other);
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
    fn texts_beyond_the_limits_are_refused() {
        let keys = |n: usize| format!("{{{}\"k\":1}}", (1..n).map(|i| format!("\"{i}\":0,")).collect::<String>());
        let rows = [
            ("values", format!("[{}0]", "0,".repeat(MAX_VALUES)), "values"),
            ("keys", keys(MAX_KEYS + 1), "keys"),
            ("keys in many objects", format!("[{}0]", "{\"a\":0},".repeat(MAX_KEYS + 1)), "keys"),
            ("a key", format!("{{\"{}\":0}}", "k".repeat(MAX_KEY + 1)), "1025 bytes"),
            ("bytes", format!("[\"{}\"]", "x".repeat(MAX_TEXT)), "4194304"),
        ];
        for (what, text, words) in rows {
            let error = parse(&text, "c.json").map(drop).unwrap_err();
            assert!(error.status == Status::CorruptFile && error.message.contains(words), "{what}: {error}");
        }
        assert!(parse(&keys(MAX_KEYS), "c").is_ok() && parse(&format!("[{}0]", "0,".repeat(MAX_VALUES - 2)), "c").is_ok());
    }

    #[test]
    fn messages_stay_short() {
        let mut f = Fields::parse(
            &format!("{{\"a\":\"{0}\",\"b\":[{0:?}],{1}\"z\":0}}", "x".repeat(1 << 20), (0..99).map(|i| format!("\"k{i}\":0,")).collect::<String>()),
            "t",
        )
        .unwrap();
        let list = f.take("b").unwrap();
        assert!(f.invalid("b", "numbers", &list).message.len() < 200);
        let error = f.choice("a", crate::io::scheduler_names::SolverType::Midpoint).unwrap_err();
        assert!(error.message.len() < 300 && error.message.contains("xxx…"), "{error}");
        let (kept, warnings) = f.rest(&[], 4 << 20);
        assert_eq!(kept.len(), 100);
        assert_eq!((warnings.len(), warnings[50].as_str()), (51, "t: 50 more unknown keys are ignored"));
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let error = Fields::parse(&format!("{{\"a\": \"{}\"}}", "ä".repeat(500)), "t").unwrap().bool("a", true).unwrap_err();
        assert!(error.message.len() < 200 && error.message.contains("t: a: expected true or false"), "{error}");
    }
}
