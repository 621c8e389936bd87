use super::*;
use crate::Status;
use crate::io::json;
use serde_json::Value;

/// What is JSON by RFC 8259, and what is not; the library's verdict is compared, which has the same grammar but for depth.
const TEXTS: [&str; 62] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "-7",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-9223372036854775809",
    "0.1",
    "1e5",
    "1E+5",
    "1e-5",
    "2.5e-324",
    "1.7976931348623157e308",
    "1e400",
    "-1e400",
    "1e-400",
    "00",
    "01",
    "-",
    "+1",
    ".5",
    "5.",
    "1e",
    "1e+",
    "1.e5",
    "0x10",
    "\"\"",
    "\"a\"",
    "\"ä€😀\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u00e4\\u20ac\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\ud83d\\u0041\"",
    "\"\\ude00\"",
    "\"\\u12g4\"",
    "\"\\u+123\"",
    "\"\\x\"",
    "\"\\ä\"",
    "\"a",
    "\"a\\",
    "\"a\\\"",
    "\"\t\"",
    "[]",
    "[1]",
    "[1, [2, {}], \"x\"]",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[",
    "{}",
    "{\"a\":1, \"b\": {\"a\": []}}",
    "{\"a\":1,\"a\":2}",
    "{\"a\" 1}",
    "{\"a\":1,}",
    "{a:1}",
    " \n\r\t[ 1 , 2 ] ",
    "[] x",
];

#[test]
fn texts_are_what_the_library_says() {
    for text in TEXTS {
        let (ours, theirs) = (json::parse(text, "t"), serde_json::from_str::<Value>(text));
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{text}"),
            (Err(error), Err(_)) => assert!(error.status == Status::CorruptFile && error.message.starts_with("t: not valid JSON at byte "), "{text}: {error}"),
            _ => panic!("{text}: {ours:?}, the library {theirs:?}"),
        }
    }
}

/// Every text cut short and with bytes replaced; floats are compared to the last bit but one, which the library may have wrong.
#[test]
fn damaged_texts_are_what_the_library_says() {
    let close = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= f64::EPSILON * b.abs(),
        _ => a == b,
    };
    for text in TEXTS {
        let damaged = (0..text.len()).flat_map(|at| {
            let cut = text.get(..at).map(str::to_owned);
            let replaced = b"\"\\{}[]:,0-e.u t".iter().filter_map(move |c| {
                let (before, rest) = (text.get(..at)?, text.get(at + 1..)?);
                Some(format!("{before}{}{rest}", *c as char))
            });
            cut.into_iter().chain(replaced)
        });
        for text in damaged {
            match (json::parse(&text, "t"), serde_json::from_str::<Value>(&text)) {
                (Ok(ours), Ok(theirs)) => assert!(close(&ours, &theirs), "{text}"),
                (Err(_), Err(_)) => {}
                (ours, theirs) => panic!("{text}: {ours:?}, the library {theirs:?}"),
            }
        }
    }
}

#[test]
fn errors_say_the_byte() {
    for (text, at, words) in [
        ("{oops}", 9, "text in quotes"),
        ("[1, x]", 12, "expected a value"),
        ("[\"a\\q\"]", 12, "escape"),
        ("", 8, "expected a value"),
        ("{}{}", 10, "more text"),
    ] {
        let mut reader = Reader::new(text, 8);
        let error = reader.skip().and_then(|()| reader.end()).unwrap_err();
        assert!(error.message.contains(&format!("at byte {at}:")) && error.message.contains(words), "{text}: {error}");
    }
}

#[test]
fn depth_is_limited_in_values_and_in_what_is_skipped() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = if open == "[" { "" } else { "0" };
        let nested = |depth: usize| format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
        assert!(json::parse(&nested(MAX_DEPTH), "t").is_ok() && Reader::new(&nested(MAX_DEPTH), 0).skip().is_ok());
        let deep = nested(MAX_DEPTH + 1);
        for error in [json::parse(&deep, "t").unwrap_err(), Reader::new(&deep, 0).skip().unwrap_err()] {
            assert!(error.status == Status::CorruptFile && error.message.contains("32 deep"), "{error}");
        }
    }
}

#[test]
fn texts_without_escapes_are_not_copied() {
    let mut reader = Reader::new("\"plain\" \"esc\\u0061ped\"", 0);
    assert!(matches!(reader.string().unwrap(), Cow::Borrowed("plain")));
    assert!(matches!(reader.string().unwrap(), Cow::Owned(text) if text == "escaped"));
}
