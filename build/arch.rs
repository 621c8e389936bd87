//! What machine code is made for.

use std::fmt;

/// A compute capability, whose code runs on later ones of the same major version too; or, with a feature, that one alone: sm_90a has instructions that
/// neither sm_89 nor sm_100 has (CUDA C++ Programming Guide, "Architecture-Specific Features").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    /// Compute capability times ten.
    pub number: u32,
    /// The letter after it.
    pub feature: Option<char>,
}

impl Arch {
    /// One without features.
    pub const fn plain(number: u32) -> Self {
        Self { number, feature: None }
    }

    /// From "90" or "90a".
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let feature = match &text[digits.len()..] {
            "" => None,
            letter => Some(letter.parse().ok()?),
        };
        Some(Self { number: digits.parse().ok()?, feature })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.number)?;
        self.feature.map_or(Ok(()), |letter| write!(f, "{letter}"))
    }
}
