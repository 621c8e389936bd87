//! JSON taken from its text piece by piece, by whoever knows what should come next.
//!
//! A library's tree of a hostile text is forty times as large as the text and asks for that memory infallibly. Here nothing is allocated but what the
//! caller keeps, texts and lists fallibly; depth is limited, so that a small stack suffices; and errors say the byte. The grammar is RFC 8259's.

use crate::error::{Error, Result};
use crate::memory;
use serde_json::Number;
use std::borrow::Cow;

/// The words of Python for the numbers which JSON lacks.
pub(super) const NON_FINITE: [(&str, f64); 3] = [("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY), ("NaN", f64::NAN)];
/// With this before it, a word stands for its number in what `json::parse` gives, and is no text. Unicode keeps the character for uses as this one.
pub(super) const MARK: char = '\u{fdd0}';

/// The word and the number that a string of `json::parse` stands for; `None` for a text.
pub(super) fn non_finite(text: &str) -> Option<(&'static str, f64)> {
    let word = text.strip_prefix(MARK)?;
    NON_FINITE.into_iter().find(|(known, _)| *known == word)
}

/// Bytes that a text has at most. The largest are schedulers with a beta for each of 100,000 timesteps, 30 bytes a line.
pub(crate) const MAX_TEXT: usize = 4 << 20;

/// What is kept of a text is called so where there is no memory for it.
const WHAT: &str = "values of a JSON text";
/// Configs are nested four deep, headers three.
pub(crate) const MAX_DEPTH: usize = 32;

/// The text and how far it was read.
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Where in the file the text begins.
    base: u64,
}

impl<'a> Reader<'a> {
    /// Begins at the front of a text that lies at byte `base` of its file.
    pub fn new(text: &'a str, base: u64) -> Self {
        Self { text, at: 0, depth: 0, base }
    }

    /// What comes next is not JSON.
    #[cold]
    fn error(&self, what: &str) -> Error {
        Error::corrupt(format!("not valid JSON at byte {}: {what}", self.base + self.at as u64))
    }

    /// What came before is JSON, but nothing that can be meant.
    #[cold]
    pub fn refused(&self, what: &str) -> Error {
        Error::corrupt(format!("{what}, before byte {}", self.base + self.at as u64))
    }

    /// The first byte of what comes next; `None` at the end.
    pub fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|c| matches!(c, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Nothing may be left but white space.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("more text after the value")),
        }
    }

    /// Takes this word if it is next.
    pub fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some() && self.text[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn expect(&mut self, token: &str, what: &str) -> Result<()> {
        if self.word(token) { Ok(()) } else { Err(self.error(what)) }
    }

    /// Takes the bracket of an object or a list.
    pub fn open(&mut self, bracket: char) -> Result<()> {
        self.expect(bracket.encode_utf8(&mut [0; 4]), if bracket == '{' { "expected an object" } else { "expected a list" })?;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(self.refused("nested more than 32 deep")) } else { Ok(()) }
    }

    /// The next key of an object, whose value comes after; `None` at its end.
    pub fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>> {
        if self.close("}", first)? {
            return Ok(None);
        }
        let key = self.string()?;
        self.expect(":", "expected a colon")?;
        Ok(Some(key))
    }

    /// Whether a list has another item, which comes next.
    pub fn next_item(&mut self, first: bool) -> Result<bool> {
        Ok(!self.close("]", first)?)
    }

    /// Takes the closing bracket, or the comma before another item.
    fn close(&mut self, bracket: &str, first: bool) -> Result<bool> {
        if self.word(bracket) {
            self.depth -= 1;
            return Ok(true);
        }
        if !first {
            self.expect(",", "expected a comma or a closing bracket")?;
        }
        Ok(false)
    }

    /// A text; one without escapes is not copied.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        self.expect("\"", "expected a text in quotes")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    // The next one belongs to it; what it is shows below.
                    self.at += 1 + usize::from(self.text.as_bytes().get(self.at + 1).is_some_and(u8::is_ascii));
                }
                Some(0..0x20) => return Err(self.error("a control character inside a text")),
                Some(_) => self.at += 1,
                None => return Err(self.error("a text without its closing quote")),
            }
        }
        let raw = &self.text[start..self.at];
        let found = if escaped { self.unescape(raw, start).map(Cow::Owned)? } else { Cow::Borrowed(raw) };
        self.at += 1;
        Ok(found)
    }

    /// What a text with escapes says, which is never longer than itself.
    fn unescape(&mut self, raw: &str, start: usize) -> Result<String> {
        let mut out = memory::text_with_capacity(raw.len(), WHAT)?;
        let mut rest = raw;
        while let Some((plain, escape)) = rest.split_once('\\') {
            out.push_str(plain);
            let found = escape_of(escape);
            let Some((c, taken)) = found else {
                self.at = start + raw.len() - escape.len();
                return Err(self.error("an escape that JSON does not have"));
            };
            out.push(c);
            rest = &escape[taken..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// A number. What is whole and fits 64 bits stays exact.
    pub fn number(&mut self) -> Result<Number> {
        self.peek();
        let bytes = &self.text.as_bytes()[self.at..];
        let (len, whole) = number_len(bytes).ok_or_else(|| self.error("expected a value"))?;
        let digits = &self.text[self.at..self.at + len];
        let exact = || digits.parse::<u64>().map(Number::from).or_else(|_| digits.parse::<i64>().map(Number::from)).ok();
        let float = || digits.parse::<f64>().ok().and_then(Number::from_f64);
        // The integer 0 has no sign.
        let found = if whole && digits != "-0" { exact().or_else(float) } else { float() };
        let found = found.ok_or_else(|| self.error("a number out of range"))?;
        self.at += len;
        Ok(found)
    }

    /// A whole number that is not negative.
    pub fn size(&mut self) -> Result<usize> {
        let found = self.number()?;
        found.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.refused(&format!("{found} where a whole number from 0 is expected")))
    }

    /// Any value, which nobody wants.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'{') => {
                self.open('{')?;
                let mut first = true;
                while self.next_key(first)?.is_some() {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.open('[')?;
                let mut first = true;
                while self.next_item(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'"') => self.string().map(drop),
            _ if self.word("null") || self.word("true") || self.word("false") => Ok(()),
            _ => self.number().map(drop),
        }
    }

    /// The text's own copy of what it gave.
    pub fn owned(&self, text: Cow<'a, str>) -> Result<String> {
        match text {
            Cow::Owned(text) => Ok(text),
            Cow::Borrowed(text) => {
                let mut out = memory::text_with_capacity(text.len(), WHAT)?;
                out.push_str(text);
                Ok(out)
            }
        }
    }

    /// Adds to a list whose memory may not be had.
    pub fn push<T>(&self, list: &mut Vec<T>, item: T) -> Result<()> {
        memory::push(list, item, WHAT)
    }
}

/// The character that stands behind a backslash, and how many bytes say so.
fn escape_of(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().first()? {
        c @ (b'"' | b'\\' | b'/') => *c as char,
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode_of(&text[1..]).map(|(c, taken)| (c, taken + 1)),
        _ => return None,
    };
    Some((c, 1))
}

/// Four hexadecimal digits, or two times four for a character outside the basic plane.
fn unicode_of(text: &str) -> Option<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first).map(|c| (c, 4));
    }
    let second = text.get(4..)?.strip_prefix("\\u").and_then(unit).filter(|s| (0xdc00..0xe000).contains(s))?;
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).map(|c| (c, 10))
}

/// How many bytes of a text are a number, and whether it is written as a whole one.
fn number_len(bytes: &[u8]) -> Option<(usize, bool)> {
    let digits = |at: usize| bytes[at..].iter().take_while(|c| c.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    at += match (bytes.get(at)?, digits(at)) {
        (_, 0) => return None,
        // Nothing may follow a leading zero.
        (b'0', n) if n > 1 => return None,
        (_, n) => n,
    };
    let integer = at;
    if bytes.get(at) == Some(&b'.') {
        let n = digits(at + 1);
        at += (n > 0).then_some(n + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let n = digits(at + 1 + sign);
        at += (n > 0).then_some(n + 1 + sign)?;
    }
    Some((at, at == integer))
}

#[cfg(test)]
#[path = "json_reader_tests.rs"]
mod tests;
