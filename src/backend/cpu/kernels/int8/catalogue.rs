//! The kernels for bytes: what dispatch, tests and benchmarks loop over.

use super::super::conv::ConvShape;
use super::pack::Packing;
use super::set::Set;
use super::staging::{Form, TILE};
use super::task::Task;
use super::{dot, pack};

/// A kernel.
pub struct Kernel {
    /// Its name, for tests and benchmarks.
    pub name: &'static str,
    /// The instructions that it needs.
    pub set: Set,
    /// Pixels and channels of a tile.
    pub tile: [usize; 2],
    /// Channels that a panel's last vector is filled up to.
    pub lanes: usize,
    /// How it wants its input.
    pub form: Form,
    /// How it wants its weights.
    pub packing: Packing,
    /// Multiply-adds in about ten microseconds of a core, what is worth handing over.
    pub(in super::super) chunk_macs: usize,
    pub(in super::super) run: unsafe fn(&Task),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All kernels of this architecture, one for each set, those of lower sets first.
pub static CATALOGUE: &[Kernel] = &[
    Kernel {
        name: "int8_portable_2x8",
        set: Set::Portable,
        tile: [2, 8],
        lanes: 4,
        form: Form::Packed,
        packing: Packing::Steps { depth: 4 },
        chunk_macs: 1 << 18,
        run: dot::portable,
    },
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "int8_avx2_4x16",
        set: Set::Avx2,
        tile: [super::avx2::ROWS, 16],
        lanes: super::avx2::LANES,
        form: Form::Packed,
        packing: Packing::Examined,
        chunk_macs: 1 << 20,
        run: super::avx2::avx2,
    },
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "int8_avxvnni_6x16",
        set: Set::AvxVnni,
        tile: [6, 16],
        lanes: 8,
        form: Form::Packed,
        packing: Packing::Steps { depth: 4 },
        chunk_macs: 1 << 21,
        run: dot::avx_vnni,
    },
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "int8_avx512vnni_14x32",
        set: Set::Avx512Vnni,
        tile: [14, 32],
        lanes: 16,
        form: Form::Packed,
        packing: Packing::Steps { depth: 4 },
        chunk_macs: 1 << 22,
        run: dot::avx512_vnni,
    },
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Kernel {
        name: "int8_amx_32x32",
        set: Set::Amx,
        tile: [2 * TILE, pack::TILE_COLUMNS],
        lanes: 16,
        form: Form::Tiles,
        packing: Packing::Tiles { size: 1 },
        chunk_macs: 1 << 24,
        run: super::amx::amx,
    },
    #[cfg(target_arch = "aarch64")]
    Kernel {
        name: "int8_neondot_6x16",
        set: Set::NeonDot,
        tile: [6, 16],
        lanes: 4,
        form: Form::Signed,
        packing: Packing::SignedSteps,
        chunk_macs: 1 << 20,
        run: dot::neon,
    },
    #[cfg(target_arch = "aarch64")]
    Kernel {
        name: "int8_neoni8mm_8x8",
        set: Set::NeonI8mm,
        tile: [8, 8],
        lanes: 8,
        form: Form::Packed,
        packing: Packing::Steps { depth: 8 },
        chunk_macs: 1 << 21,
        run: super::i8mm::i8mm,
    },
];

impl Kernel {
    /// The kernel that computes a shape on this machine. The first shape that fills tiles, on a processor that has them, asks the system for them, which
    /// changes the process (`amx.rs`): call it when a plan of bytes is compiled, not before.
    pub fn detect(shape: &ConvShape) -> &'static Self {
        Self::chosen(shape, Set::detect, Set::detect_vectors)
    }

    /// That of the best set, which is asked for only where the shape fills tiles, or of the best set of vectors.
    pub(super) fn chosen(shape: &ConvShape, best: impl FnOnce() -> Set, vectors: impl FnOnce() -> Set) -> &'static Self {
        Self::of(if fills_tiles(shape, 1) { best() } else { vectors() }, shape)
    }

    /// The kernel that computes a shape on machines of `set`. Tiles take a pixel by 64 channels: where most of a tile would be filling, AVX-512 VNNI is
    /// faster, which all machines with AMX have.
    pub fn of(set: Set, shape: &ConvShape) -> &'static Self {
        let lower = set == Set::Amx && !fills_tiles(shape, 1);
        let set = if lower { Set::Avx512Vnni } else { set };
        CATALOGUE.iter().rev().find(|kernel| kernel.set == set).unwrap_or(&CATALOGUE[0])
    }
}

/// Whether at least a quarter of what tiles compute of channels of `size` bytes is wanted: they are about four times as fast as VNNI where all of it is, and
/// those of bf16 are sixteen times as fast as floats.
pub(in super::super) fn fills_tiles(s: &ConvShape, size: usize) -> bool {
    let pixels = if s.h == 1 && s.w == 1 { s.n } else { s.p() * s.q() };
    let share = |part: usize, of: usize| part as f64 / part.next_multiple_of(of) as f64;
    share(pixels, TILE) * share(s.c_in, super::staging::LINE / size) * share(s.c_out, pack::TILE_COLUMNS) >= 0.25
}
