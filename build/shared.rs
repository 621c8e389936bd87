//! `cuda/shared.h`: the numbers that kernels and the Rust code around them share, as Rust.

use std::fmt::Write;

/// Modules of constants; an error with its line for anything but comments, namespaces and `constexpr int kSomeName = 1;  // what it is`.
pub fn to_rust(header: &str) -> Result<String, String> {
    let (mut rust, mut open) = (String::new(), vec![]);
    for (number, line) in header.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("//") || line == "#pragma once" {
            continue;
        }
        let understood = match line.strip_prefix("namespace ").and_then(|line| line.strip_suffix(" {")) {
            Some(name) => {
                open.push(name);
                // The outermost is the Rust module that includes this.
                if open.len() > 1 {
                    writeln!(rust, "pub mod {name} {{").expect("a String takes everything");
                }
                true
            }
            None if line.starts_with("}  // namespace ") => match open.pop() {
                Some(_) if !open.is_empty() => {
                    rust.push_str("}\n");
                    true
                }
                ended => ended.is_some(),
            },
            None => open.len() > 1 && constant(line).inspect(|constant| rust.push_str(constant)).is_some(),
        };
        if !understood {
            return Err(format!("line {}: not understood (build/shared.rs says what is): {line}", number + 1));
        }
    }
    if open.is_empty() { Ok(rust) } else { Err(format!("namespace {} has no end", open.join("::"))) }
}

/// `/// What it is.` and `pub const SOME_NAME: usize = 1;`.
fn constant(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("constexpr int k")?.split_once(" = ")?;
    let (value, comment) = rest.split_once(';')?;
    // As C++ and Rust both read it: a 0 in front would be octal there.
    let value = value.parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok() && n.to_string() == value)?;
    let name = screaming(name)?;
    let comment = match comment.trim() {
        "" => String::new(),
        comment => format!("/// {}.\n", comment.strip_prefix("// ")?),
    };
    Some(format!("{comment}pub const {name}: usize = {value};\n"))
}

/// SOME_NAME of SomeName.
fn screaming(name: &str) -> Option<String> {
    let mut screaming = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !screaming.is_empty() {
            screaming.push('_');
        }
        screaming.push(Some(letter.to_ascii_uppercase()).filter(char::is_ascii_alphanumeric)?);
    }
    Some(screaming).filter(|name| !name.is_empty())
}
