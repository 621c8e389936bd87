//! Instruction sets of products of bytes, beside [`Isa`]: an Alder Lake has AVX2 for floats and AVX-VNNI for bytes.
//!
//! The environment variable `FEWSTEP_ISA` lowers both.

use super::super::simd::{Isa, wanted};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Instructions that a kernel for bytes is written in; those of an architecture in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Whatever the target always has.
    Portable,
    /// AVX2: vpmaddubsw, exact since weights are examined when they are packed.
    Avx2,
    /// AVX-VNNI: vpdpbusd on 32 bytes.
    AvxVnni,
    /// AVX-512 VNNI: vpdpbusd on 64 bytes.
    Avx512Vnni,
    /// AMX int8: tdpbusd on tiles of 16 rows of 64 bytes. Linux only: elsewhere nobody has tried to ask for the tiles.
    Amx,
    /// NEON with sdot.
    NeonDot,
    /// NEON with usmmla.
    NeonI8mm,
}

/// All sets; those of an architecture in rising order.
const SETS: [Set; 7] = [Set::Portable, Set::Avx2, Set::AvxVnni, Set::Avx512Vnni, Set::Amx, Set::NeonDot, Set::NeonI8mm];

/// The highest set that a value of `FEWSTEP_ISA` allows; on another architecture than the set's, portable. Without the variable, and with any other value, a
/// machine's best.
///
/// | value | floats | bytes |
/// | --- | --- | --- |
/// | `portable` | portable | portable |
/// | `avx2` | AVX2 | AVX2 |
/// | `avx_vnni` | AVX2 | AVX-VNNI |
/// | `avx512`, `avx512_vnni` | AVX-512 | AVX-512 VNNI |
/// | `amx` | AVX-512 | AMX int8 |
/// | `neon_dot` | portable | NEON dotprod |
/// | `neon_i8mm` | portable | NEON i8mm |
///
/// Products of bf16 need AMX: whoever plans them names it, and any value but `amx` forbids it ([`super::super::bf16`]).
const LIMITS: [(&str, Set); 8] = [
    ("portable", Set::Portable),
    ("avx2", Set::Avx2),
    ("avx_vnni", Set::AvxVnni),
    ("avx512", Set::Avx512Vnni),
    ("avx512_vnni", Set::Avx512Vnni),
    ("amx", Set::Amx),
    ("neon_dot", Set::NeonDot),
    ("neon_i8mm", Set::NeonI8mm),
];

impl Set {
    /// The best set this machine has and `FEWSTEP_ISA` allows.
    ///
    /// On a processor with AMX the first call asks the system for the tiles, unless `FEWSTEP_ISA` names something lower; that changes the process (see
    /// `amx.rs`). Where the system refuses, the next lower set is the answer, for good.
    pub fn detect() -> Self {
        static BEST: AtomicUsize = AtomicUsize::new(usize::MAX);
        Self::known(&BEST, Self::available)
    }

    /// The best set but for AMX, which is not asked for.
    pub fn detect_vectors() -> Self {
        static BEST: AtomicUsize = AtomicUsize::new(usize::MAX);
        Self::known(&BEST, |set| set != Self::Amx && set.available())
    }

    /// The best set if the system gives the tiles, which it is not asked.
    pub fn possible() -> Self {
        Self::best(Self::limit(), |set| if set == Self::Amx { Self::tiles_are_possible() } else { set.available() })
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn tiles_are_possible() -> bool {
        let allowed = Self::limit().is_none_or(|limit| limit == Self::Amx);
        allowed && Self::Avx512Vnni.available() && super::amx::has(super::amx::Products::Bytes) && !super::amx::refused()
    }

    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    fn tiles_are_possible() -> bool {
        false
    }

    /// The best of those that the machine has; `best` is its index, once known. Nobody waits here for another thread, which a fork might have left behind.
    fn known(best: &AtomicUsize, has: impl Fn(Self) -> bool) -> Self {
        if let Some(known) = SETS.get(best.load(Ordering::Relaxed)) {
            return *known;
        }
        let found = Self::best(Self::limit(), has);
        best.store(SETS.iter().position(|set| *set == found).unwrap_or(0), Ordering::Relaxed);
        found
    }

    /// The set that `FEWSTEP_ISA` names.
    fn limit() -> Option<Self> {
        LIMITS.iter().find(|(name, _)| wanted() == Some(*name)).map(|(_, set)| *set)
    }

    /// The highest set that the limit allows and the machine has, which is asked from above.
    fn best(limit: Option<Self>, has: impl Fn(Self) -> bool) -> Self {
        let allowed = |set: Self| limit.is_none_or(|limit| set.within(limit));
        SETS.into_iter().rev().find(|set| allowed(*set) && has(*set)).unwrap_or(Self::Portable)
    }

    fn neon(self) -> bool {
        matches!(self, Self::NeonDot | Self::NeonI8mm)
    }

    /// Whether it is no higher than `limit`, of the same architecture.
    fn within(self, limit: Self) -> bool {
        self == Self::Portable || self <= limit && self.neon() == limit.neon()
    }

    /// Whether this machine can run it now. AMX is none where `FEWSTEP_ISA` names something lower; else the system is asked for the tiles, once.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Isa::Avx2.available(),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Isa::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Isa::Avx512.available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::tiles_are_possible() && super::amx::permitted(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => Self::NeonDot.available() && std::arch::is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns)] // all of an architecture's own are above
            _ => false,
        }
    }

    /// All sets this machine can run, the lowest first. For tests and benchmarks.
    pub fn all() -> impl Iterator<Item = Self> {
        SETS.into_iter().filter(|set| set.available())
    }

    /// The set of floats that goes with it: every machine that has the one has the other.
    pub fn isa(self) -> Isa {
        match self {
            Self::Portable | Self::NeonDot | Self::NeonI8mm => Isa::Portable,
            Self::Avx2 | Self::AvxVnni => Isa::Avx2,
            Self::Avx512Vnni | Self::Amx => Isa::Avx512,
        }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::AvxVnni => "AVX-VNNI",
            Self::Avx512Vnni => "AVX-512 VNNI",
            Self::Amx => "AMX int8",
            Self::NeonDot => "NEON dotprod",
            Self::NeonI8mm => "NEON i8mm",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_sets_are_lowered_within_their_architecture() {
        let server = |set: Set| !set.neon();
        let refused = |set: Set| !set.neon() && set != Set::Amx;
        let cascade_lake = |set: Set| !set.neon() && !matches!(set, Set::Amx | Set::AvxVnni);
        let alder_lake = |set: Set| !set.neon() && set <= Set::AvxVnni;
        let arm = |set: Set| set == Set::Portable || set.neon();
        type Case<'a> = (&'a dyn Fn(Set) -> bool, Option<Set>, Set);
        let cases: [Case; 14] = [
            (&server, None, Set::Amx),
            (&server, Some(Set::Amx), Set::Amx),
            (&refused, None, Set::Avx512Vnni),
            (&refused, Some(Set::Amx), Set::Avx512Vnni),
            (&server, Some(Set::Avx512Vnni), Set::Avx512Vnni),
            (&server, Some(Set::AvxVnni), Set::AvxVnni),
            (&cascade_lake, Some(Set::AvxVnni), Set::Avx2),
            (&server, Some(Set::Avx2), Set::Avx2),
            (&alder_lake, Some(Set::Avx512Vnni), Set::AvxVnni),
            (&server, Some(Set::NeonI8mm), Set::Portable),
            (&arm, None, Set::NeonI8mm),
            (&arm, Some(Set::NeonDot), Set::NeonDot),
            (&arm, Some(Set::Amx), Set::Portable),
            (&server, Some(Set::Portable), Set::Portable),
        ];
        for (i, (has, limit, expected)) in cases.into_iter().enumerate() {
            assert_eq!(Set::best(limit, has), expected, "case {i}: {limit:?}");
        }
    }

    #[test]
    fn int8_tiles_are_not_asked_for_where_something_lower_is_named() {
        for limit in LIMITS.into_iter().map(|(_, limit)| Some(limit)).chain([None]) {
            let asked = std::cell::Cell::new(false);
            Set::best(limit, |set| {
                asked.set(asked.get() || set == Set::Amx);
                false
            });
            assert_eq!(asked.get(), limit.is_none_or(|limit| limit == Set::Amx), "{limit:?}");
        }
        assert_ne!(Set::detect_vectors(), Set::Amx);
        // Once the system was asked, nothing is merely possible.
        let found = Set::detect();
        assert_eq!(Set::possible(), found);
    }

    #[test]
    fn int8_limits_lower_floats_and_bytes_alike() {
        assert_eq!(LIMITS.map(|(name, _)| name), super::super::super::simd::NAMES);
        for (name, set) in LIMITS {
            assert_eq!(set.isa(), Isa::limit(Some(name)), "{name}");
        }
        // What this machine can run, its floats can.
        assert!(Set::all().all(|set| set.isa().available()) && Set::all().any(|set| set == Set::detect()));
    }
}
