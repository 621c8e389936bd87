//! Indirect matrix multiplication: `C[m, n] = sum over taps t and channels c of A_row(t, m)[c] * B[(t, c), n]`.
//!
//! A's channels may come in two values, of which nobody makes one: each tap then has a row of the table for each, and its sum runs over the channels of both.
//!
//! Rows of A are reached through a small table of offsets per tap and pixel, so a convolution needs neither im2col nor a packed A; pixels
//! outside the image point to a row of zeros. B is packed as panels of two vectors: `[N / NR][taps][channels][NR]`, the last panel one or two
//! vectors wide and zero-padded. The micro-kernel keeps a tile of `MR x NR` of C in registers; each A element is broadcast from memory.
//!
//! Pixels with the same set of valid taps form a class, and a tile never mixes classes. On small maps this skips the halo work (31 % of a
//! 3x3 convolution on 4x4 maps); where the classes would be too small to fill tiles, all pixels form one class and read zeros instead.

use super::pool::{Shared, split};
use super::simd::{Isa, Kernel, Simd};
use super::workers::Workers;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{Buffer, try_vec};

/// Most rows of any tile; sizes the row arrays on the stack.
const MAX_ROWS: usize = 14;
/// Most columns of any panel.
const MAX_COLS: usize = 32;
/// The most values that A comes in.
pub(crate) const MOST_SOURCES: usize = 2;
/// Table entry of a pixel outside the image.
const OUTSIDE: u32 = u32::MAX;
/// Bytes of one B panel that are used before the next rows of A are taken: half of a small L2, so that the panel is read from there.
const PANEL_BYTES: usize = 128 << 10;
/// Multiply-adds of one chunk at least (about 10 us of one AVX-512 core): an atomic and a dispatch are then below 1 %.
const CHUNK_MACS: usize = 1 << 20;
/// No more chunks than this per product, enough to balance 32 threads, unless each would then be long.
const MAX_CHUNKS: usize = 128;
/// Multiply-adds of one chunk at most (about 3 ms of one AVX-512 core): a caller who wants to stop waits for one. Products beyond all measure have longer ones.
const LONG_MACS: usize = 1 << 27;
/// No more chunks than this in any case.
const MOST_CHUNKS: usize = 1 << 16;

/// Multiply-adds of a chunk of so many, if `worth` of them are worth handing over.
pub(super) fn chunk_macs(total: usize, worth: usize) -> usize {
    (total / MAX_CHUNKS).min(LONG_MACS.max(total / MOST_CHUNKS)).max(worth.min(total / 8)).max(1)
}

/// What is added to and multiplied into a product before it is stored: `(product + bias + addend + residual) * scale`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Per output channel: `[O]`.
    pub bias: Option<&'a [f32]>,
    /// Per sample and output channel: `[N, O]`.
    pub addend: Option<&'a [f32]>,
    /// Per output element: `[N, P, Q, O]`.
    pub residual: Option<&'a [f32]>,
    /// Multiplies the sum.
    pub scale: f32,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, addend: None, residual: None, scale: 1.0 }
    }
}

/// The sizes of an indirect product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub isa: Isa,
    /// Columns of C.
    pub n: usize,
    /// Channels of one tap.
    pub channels: usize,
    /// Taps that B has.
    pub taps: usize,
    /// Images in A and C.
    pub images: usize,
    /// Elements of one image of A, all of its values together.
    pub a_image: usize,
    /// Rows of one image of C.
    pub c_rows: usize,
    /// Rows of C that share one row of the epilogue's addend.
    pub sample_rows: usize,
}

/// Pixels of an image that use the same taps.
#[derive(Debug)]
struct Class {
    taps: Vec<u32>,
    /// A step for each tap and value of A: what their sums run over, in this order.
    steps: Vec<Step>,
    /// `[steps][pixels]` offsets into an image of the step's value of A, or [`OUTSIDE`].
    table: Vec<u32>,
    /// Row of C of every pixel.
    pixels: Vec<u32>,
}

/// Neighbouring rows of B under one tap, of one value of A.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The first of them.
    row: u32,
    /// How many.
    channels: u32,
    /// Which value.
    source: u32,
}

/// A part of the product that one thread computes: rows of one class times some panels.
#[derive(Clone, Debug)]
struct Chunk {
    class: usize,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
}

impl Chunk {
    /// A row of C in the middle of the chunk's.
    fn middle_row(&self, layout: &Layout, classes: &[Class]) -> usize {
        let pixels = &classes[self.class].pixels;
        let at = (self.rows.start + self.rows.end) / 2;
        at / pixels.len() * layout.c_rows + pixels[at % pixels.len()] as usize
    }
}

/// A product whose sizes and tables are fixed.
#[derive(Debug)]
pub(crate) struct Gemm {
    layout: Layout,
    /// Channels of each value that A comes in, of one tap.
    sources: Vec<usize>,
    classes: Vec<Class>,
    chunks: Vec<Chunk>,
    zeros: Buffer,
}

impl Layout {
    fn panel(&self) -> usize {
        2 * self.isa.width()
    }

    pub fn packed_len(&self) -> Option<usize> {
        packed_len(self.isa, self.n, self.taps.checked_mul(self.channels)?)
    }
}

/// Elements of a packed matrix of `rows` rows and `n` columns, which are filled up to whole vectors.
pub fn packed_len(isa: Isa, n: usize, rows: usize) -> Option<usize> {
    let w = isa.width();
    let rest = n % (2 * w);
    let columns = (n - rest).checked_add(rest.div_ceil(w) * w)?;
    rows.checked_mul(columns)
}

/// `(key, pixel)` runs as classes; the taps of a class are all that any of its pixels uses.
fn classes(layout: &Layout, sources: &[usize], keys: &[(u64, u32)], lookup: &impl Fn(usize, usize) -> Option<usize>) -> Result<Vec<Class>> {
    let mut out = Vec::new();
    for run in keys.chunk_by(|a, b| a.0 == b.0) {
        let mut class = Class { taps: Vec::new(), steps: Vec::new(), table: Vec::new(), pixels: try_vec(run.len(), "pixel table")? };
        for (pixel, key) in class.pixels.iter_mut().zip(run) {
            *pixel = key.1;
        }
        let mut row = try_vec::<u32>(run.len(), "tap table")?;
        for tap in 0..layout.taps {
            let mut any = false;
            for (entry, key) in row.iter_mut().zip(run) {
                let offset = lookup(key.1 as usize, tap);
                if offset.is_some_and(|o| o + layout.channels > layout.a_image) {
                    return Err(Error::internal(format!("tap {tap} of pixel {} leaves the image", key.1)));
                }
                any |= offset.is_some();
                *entry = offset.map_or(OUTSIDE, |o| o as u32);
            }
            if any {
                let mut first = tap * layout.channels;
                for (source, channels) in sources.iter().enumerate() {
                    append_row(&mut class.table, &row, *channels, layout.channels)?;
                    memory::push(&mut class.steps, Step { row: first as u32, channels: *channels as u32, source: source as u32 }, "steps")?;
                    first += channels;
                }
                memory::push(&mut class.taps, tap as u32, "taps")?;
            }
        }
        class.table.shrink_to_fit();
        memory::push(&mut out, class, "classes of pixels")?;
    }
    Ok(out)
}

/// Offsets into the whole A as those into a value of it that has `own` of its `all` channels.
fn append_row(table: &mut Vec<u32>, row: &[u32], own: usize, all: usize) -> Result<()> {
    let start = table.len();
    memory::append(table, row, "tap table")?;
    if own != all {
        table[start..].iter_mut().filter(|offset| **offset != OUTSIDE).for_each(|offset| *offset = (*offset as usize / all * own) as u32);
    }
    Ok(())
}

/// Cycles of one panel, roughly: a tile of few rows cannot hide the latency of the multiply-adds, and every tile and tap has a setup.
fn cost(layout: &Layout, classes: &[Class]) -> usize {
    let per_class = |class: &Class| {
        let rows = class.pixels.len() * layout.images;
        let tiles = rows.div_ceil(layout.isa.tile_rows());
        tiles * (class.taps.len() * (layout.channels * rows.div_ceil(tiles.max(1)).max(5) + 10) + 60)
    };
    classes.iter().map(per_class).sum()
}

impl Gemm {
    /// `group(pixel)` separates pixels that share no taps (parities of a strided gradient); `lookup(pixel, tap)` is the offset of the
    /// channel vector inside an image of A, `None` outside. A comes in `sources` of so many channels; with several, offsets are whole pixels.
    pub fn new(layout: Layout, sources: &[usize], group: impl Fn(usize) -> usize, lookup: impl Fn(usize, usize) -> Option<usize>) -> Result<Self> {
        if sources.len() > MOST_SOURCES || sources.contains(&0) || sources.iter().sum::<usize>() != layout.channels {
            return Err(Error::internal(format!("sources of {sources:?} channels for {} of a product", layout.channels)));
        }
        let too_big = || Error::shape(format!("product {layout:?} is too large"));
        let rows = layout.images.checked_mul(layout.c_rows).ok_or_else(too_big)?;
        let sizes = [layout.packed_len(), rows.checked_mul(layout.n), layout.images.checked_mul(layout.a_image)];
        if sizes.iter().any(|s| s.is_none_or(|s| s > isize::MAX as usize / 8)) || layout.a_image.max(layout.c_rows) >= OUTSIDE as usize {
            return Err(too_big());
        }
        let mut keys = try_vec::<(u64, u32)>(layout.c_rows, "pixel keys")?;
        let keyed = |keys: &mut Vec<(u64, u32)>, key: &dyn Fn(usize) -> u64| {
            for (pixel, slot) in keys.iter_mut().enumerate() {
                *slot = (key(pixel), pixel as u32);
            }
            keys.sort_unstable();
        };
        keyed(&mut keys, &|pixel| group(pixel) as u64);
        let mut best = classes(&layout, sources, &keys, &lookup)?;
        if layout.taps <= 64 {
            keyed(&mut keys, &|pixel| (0..layout.taps).filter(|&t| lookup(pixel, t).is_some()).fold(0, |m, t| m | 1 << t));
            let exact = classes(&layout, sources, &keys, &lookup)?;
            if cost(&layout, &exact) < cost(&layout, &best) {
                best = exact;
            }
        }
        best.sort_by_key(|class| std::cmp::Reverse(class.taps.len() * class.pixels.len()));
        let zeros = Buffer::zeroed(layout.channels * 4, "zero row")?;
        let mut chunks = chunks(&layout, &best)?;
        // Threads own ranges of chunks. In the order of their rows these are the same rows in every product and pass, and about as much work.
        chunks.sort_unstable_by_key(|chunk| (chunk.middle_row(&layout, &best), chunk.class, chunk.panels.start));
        Ok(Self { layout, sources: memory::copy(sources, "sources of a product")?, classes: best, chunks, zeros })
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> usize {
        let classes = self.classes.iter().map(|c| 4 * (c.taps.len() + c.table.capacity() + c.pixels.len()) + size_of_val(&*c.steps));
        classes.sum::<usize>() + self.chunks.capacity() * size_of::<Chunk>() + self.zeros.len()
    }

    /// Elements of an image of a value of so many channels.
    fn image_of(&self, channels: usize) -> usize {
        if channels == self.layout.channels { self.layout.a_image } else { self.layout.a_image / self.layout.channels * channels }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Computes `out`. `a` is `[images][a_image]`, or the values that it comes in, `packed` has `packed_len` elements, `out` is `[images * c_rows][n]`.
    pub fn run(&self, a: &[&[f32]], packed: &[f32], epilogue: &Epilogue, out: &mut [f32], pool: Workers) -> Result<()> {
        let l = &self.layout;
        let rows = l.images * l.c_rows;
        let need = |what: &str, found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(Error::shape(format!("{what}: expected {expected} elements, found {found}"))) }
        };
        need("inputs", a.len(), self.sources.len())?;
        for (a, channels) in a.iter().zip(&self.sources) {
            need("input", a.len(), l.images * self.image_of(*channels))?;
        }
        need("packed weights", packed.len(), l.packed_len().unwrap_or(0))?;
        need("output", out.len(), rows * l.n)?;
        need("bias", epilogue.bias.map_or(l.n, <[f32]>::len), l.n)?;
        let samples = rows / l.sample_rows.max(1) * l.n;
        need("addend", epilogue.addend.map_or(samples, <[f32]>::len), samples)?;
        need("residual", epilogue.residual.map_or(rows * l.n, <[f32]>::len), rows * l.n)?;
        let out = Shared::new(out);
        // SAFETY: the lengths are as they must be.
        pool.run(self.chunks.len(), &|i| unsafe { self.run_chunk(i, a, packed, epilogue, out) })
    }

    /// The parts that a product is cut into, by its shape alone.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// One of them, for who hands out those of several products together.
    ///
    /// # Safety
    /// All slices have the lengths that [`Gemm::run`] asks for, and nobody else reaches what the chunk writes of `out`.
    pub unsafe fn run_chunk(&self, index: usize, a: &[&[f32]], packed: &[f32], epilogue: &Epilogue, out: Shared) {
        self.layout.isa.dispatch(ChunkKernel { gemm: self, chunk: &self.chunks[index], a, packed, epilogue, out });
    }
}

/// Cuts the product by its shape alone. Rows first; panels too when the rows are few (small maps at batch 1).
fn chunks(layout: &Layout, classes: &[Class]) -> Result<Vec<Chunk>> {
    let (mr, panels) = (layout.isa.tile_rows(), layout.n.div_ceil(layout.panel()));
    let tile_macs = |class: &Class| (class.taps.len() * layout.channels * mr * layout.panel()).max(1);
    let tiles = |class: &Class| (class.pixels.len() * layout.images).div_ceil(mr);
    let total: usize = classes.iter().map(|c| tile_macs(c).saturating_mul(tiles(c)).saturating_mul(panels)).fold(0, usize::saturating_add);
    let target = chunk_macs(total, CHUNK_MACS);
    let mut out = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        let rows = class.pixels.len() * layout.images;
        let (count, one) = (tiles(class), tile_macs(class));
        let tiles_each = target.div_ceil(one).clamp(1, count.max(1));
        let parts = count.div_ceil(tiles_each);
        let panels_each = (target / (one * tiles_each)).clamp(1, panels.max(1));
        let panel_parts = panels.div_ceil(panels_each);
        for part in 0..parts {
            for panel in 0..panel_parts {
                let chunk = Chunk { class: index, rows: split(rows, parts, part), panels: split(panels, panel_parts, panel) };
                memory::push(&mut out, chunk, "chunks of a product")?;
            }
        }
    }
    Ok(out)
}

struct ChunkKernel<'a> {
    gemm: &'a Gemm,
    chunk: &'a Chunk,
    a: &'a [&'a [f32]],
    packed: &'a [f32],
    epilogue: &'a Epilogue<'a>,
    out: Shared<'a>,
}

/// The rows of one tile.
struct Rows {
    /// Start of the row's image in each value of A.
    image: [[*const f32; MAX_ROWS]; MOST_SOURCES],
    /// Column of the tables.
    pixel: [u32; MAX_ROWS],
    /// Row of C.
    out: [usize; MAX_ROWS],
}

/// Where a finished tile goes.
struct Finish<'a> {
    epilogue: &'a Epilogue<'a>,
    out: *mut f32,
    /// First column, columns of the matrix.
    column: usize,
    columns: usize,
    n: usize,
    sample_rows: usize,
    first: bool,
    last: bool,
}

#[repr(align(64))]
struct Tile([f32; MAX_ROWS * MAX_COLS]);

impl Kernel for ChunkKernel<'_> {
    type Output = ();
    #[inline(always)]
    unsafe fn call<S: Simd>(self) {
        let (g, l) = (self.gemm, &self.gemm.layout);
        let class = &g.classes[self.chunk.class];
        let (nr, mr_max, pixels) = (2 * S::W, S::ISA.tile_rows(), class.pixels.len());
        let block_taps = (PANEL_BYTES / (l.channels * nr * 4).max(1)).max(1);
        let total = self.chunk.rows.len();
        let tiles = total.div_ceil(mr_max);
        let mut tile = Tile([0.0; MAX_ROWS * MAX_COLS]);
        for panel in self.chunk.panels.clone() {
            let column = panel * nr;
            let columns = (l.n - column).min(nr);
            let vectors = columns.div_ceil(S::W);
            // SAFETY: the panel starts inside `packed`, whose length `run` checked.
            let b = unsafe { self.packed.as_ptr().add(panel * nr * l.taps * l.channels) };
            let sizes: [usize; MOST_SOURCES] = std::array::from_fn(|s| g.sources.get(s).map_or(0, |channels| g.image_of(*channels)));
            let mut tap = 0;
            loop {
                // By the taps that B has, whichever of them the class uses: which pixels share a class depends on how many there are, and sums must not.
                let block = class.taps.get(tap).map_or(0, |tap| *tap as usize / block_taps);
                let taps = tap..class.taps.partition_point(|tap| *tap as usize / block_taps <= block);
                let steps = taps.start * g.sources.len()..taps.end * g.sources.len();
                let finish = Finish {
                    epilogue: self.epilogue,
                    out: self.out.as_ptr(),
                    column,
                    columns,
                    n: l.n,
                    sample_rows: l.sample_rows,
                    first: tap == 0,
                    last: taps.end == class.taps.len(),
                };
                for index in 0..tiles {
                    let part = split(total, tiles, index);
                    let mr = part.len();
                    let mut rows = Rows { image: [[std::ptr::null(); MAX_ROWS]; MOST_SOURCES], pixel: [0; MAX_ROWS], out: [0; MAX_ROWS] };
                    let start = self.chunk.rows.start + part.start;
                    let (mut image, mut pixel) = (start / pixels, start % pixels);
                    for i in 0..mr {
                        for ((images, a), size) in rows.image.iter_mut().zip(self.a).zip(&sizes) {
                            // SAFETY: `image < images` and `a` has as many images of this size (checked by `run`).
                            images[i] = unsafe { a.as_ptr().add(image * size) };
                        }
                        rows.pixel[i] = pixel as u32;
                        rows.out[i] = image * l.c_rows + class.pixels[pixel] as usize;
                        pixel += 1;
                        if pixel == pixels {
                            (image, pixel) = (image + 1, 0);
                        }
                    }
                    macro_rules! sizes { ($($m:literal)*) => {
                        match (mr, vectors) {
                            // The constant condition drops the sizes this set does not use.
                            $(
                            // SAFETY: the row pointers are valid for every tap of the class (checked by `Gemm::new`), the panel for all
                            // taps; the machine supports S.
                            ($m, 1) if $m <= S::ISA.tile_rows() => unsafe { multiply::<S, $m, 1>(g, class, steps.clone(), &rows, b, &mut tile) },
                            // SAFETY: as above.
                            ($m, _) if $m <= S::ISA.tile_rows() => unsafe { multiply::<S, $m, 2>(g, class, steps.clone(), &rows, b, &mut tile) },
                            )*
                            _ => {}
                        }
                    } }
                    sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                    // SAFETY: rows and columns lie in C and belong to this chunk alone.
                    unsafe { finish_tile::<S>(&finish, &rows.out[..mr], vectors, &tile) };
                }
                tap = taps.end;
                if tap >= class.taps.len() {
                    break;
                }
            }
        }
    }
}

/// `tile[MR][NV * W] = sum over taps`; everything stays in registers until the end.
#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const NV: usize>(
    g: &Gemm,
    class: &Class,
    steps: std::ops::Range<usize>,
    rows: &Rows,
    panel: *const f32,
    tile: &mut Tile,
) {
    let pixels = class.pixels.len();
    let zeros = g.zeros.as_ptr().cast::<f32>().cast_const();
    // SAFETY: see the caller; table indices are below steps * pixels, panel offsets below taps * channels * NV * W; there are as many values as sources.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for at in steps {
            let step = *class.steps.as_ptr().add(at);
            let table = class.table.as_ptr().add(at * pixels);
            let image = rows.image.as_ptr().add(step.source as usize).cast::<*const f32>();
            let mut a = [zeros; MR];
            for i in 0..MR {
                let offset = *table.add(rows.pixel[i] as usize);
                if offset != OUTSIDE {
                    a[i] = (*image.add(i)).add(offset as usize);
                }
            }
            let mut b = panel.add(step.row as usize * NV * S::W);
            for c in 0..step.channels as usize {
                let mut bv = [S::splat(0.0); NV];
                for j in 0..NV {
                    bv[j] = S::load(b.add(j * S::W));
                }
                for i in 0..MR {
                    let av = S::splat(*a[i].add(c));
                    for j in 0..NV {
                        acc[i][j] = S::fma(av, bv[j], acc[i][j]);
                    }
                }
                b = b.add(NV * S::W);
            }
        }
        for i in 0..MR {
            for j in 0..NV {
                S::store(tile.0.as_mut_ptr().add((i * NV + j) * S::W), acc[i][j]);
            }
        }
    }
}

/// Adds what earlier taps left in C, applies the epilogue after the last ones, and stores.
#[inline(always)]
unsafe fn finish_tile<S: Simd>(f: &Finish, rows: &[usize], vectors: usize, tile: &Tile) {
    let e = f.epilogue;
    // SAFETY: `column + columns <= n`, the rows are rows of C, and `run` checked the lengths of all epilogue slices.
    unsafe {
        for (i, &row) in rows.iter().enumerate() {
            for j in 0..vectors {
                let column = f.column + j * S::W;
                let count = (f.columns - j * S::W).min(S::W);
                let get = |p: *const f32| if count == S::W { S::load(p) } else { S::load_n(p, count) };
                let mut v = S::load(tile.0.as_ptr().add((i * vectors + j) * S::W));
                let out = f.out.add(row * f.n + column);
                if !f.first {
                    v = S::add(v, get(out));
                }
                if f.last {
                    if let Some(bias) = e.bias {
                        v = S::add(v, get(bias.as_ptr().add(column)));
                    }
                    if let Some(addend) = e.addend {
                        v = S::add(v, get(addend.as_ptr().add(row / f.sample_rows * f.n + column)));
                    }
                    if let Some(residual) = e.residual {
                        v = S::add(v, get(residual.as_ptr().add(row * f.n + column)));
                    }
                    v = S::mul(v, S::splat(e.scale));
                }
                if count == S::W { S::store(out, v) } else { S::store_n(out, v, count) }
            }
        }
    }
}

/// Where B's element (tap, channel, column) stands in an unpacked weight tensor: `column * column_stride + channel * channel_stride + tap`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub taps: usize,
    pub channels: usize,
    pub column_stride: usize,
    pub channel_stride: usize,
}

/// Channels that one packing chunk takes: with 9 taps and 32 columns its target is 18 KiB, which stays in L1 while it is scattered.
const PACK_CHANNELS: usize = 16;

/// Packs `n` columns for `isa`. `packed` is `[panels][taps][channels][NR]`.
pub(crate) fn pack(isa: Isa, n: usize, source: Source, weights: &[f32], packed: &mut [f32], pool: Workers) -> Result<()> {
    let Source { taps, channels, .. } = source;
    let (w, nr) = (isa.width(), 2 * isa.width());
    let padded = (n / nr) * nr + (n % nr).div_ceil(w) * w;
    if weights.len() != n * channels * taps || packed.len() != padded * channels * taps {
        return Err(Error::shape(format!("packing {taps}x{channels}x{n}: found {} weights for {} packed elements", weights.len(), packed.len())));
    }
    let out = Shared::new(packed);
    // SAFETY: each chunk runs once, and `packed` is lent to them alone.
    pool.run(pack_chunks(isa, n, channels), &|chunk| unsafe { pack_chunk(isa, n, source, weights, out, chunk) })
}

/// The parts that [`pack`] is cut into.
pub(crate) fn pack_chunks(isa: Isa, n: usize, channels: usize) -> usize {
    n.div_ceil(2 * isa.width()) * channels.div_ceil(PACK_CHANNELS)
}

/// One of them, for who hands out those of several matrices together. Panics where a slice is shorter than [`pack`] asks for.
///
/// # Safety
/// No other reference covers what the chunk writes of `packed`: no two calls with the same chunk run at once.
pub(crate) unsafe fn pack_chunk(isa: Isa, n: usize, source: Source, weights: &[f32], packed: Shared, chunk: usize) {
    let Source { taps, channels, .. } = source;
    let (w, nr, blocks) = (isa.width(), 2 * isa.width(), channels.div_ceil(PACK_CHANNELS));
    let (panel, block) = (chunk / blocks, chunk % blocks);
    let columns = (n - panel * nr).min(nr);
    let width = columns.div_ceil(w) * w;
    let range = block * PACK_CHANNELS..((block + 1) * PACK_CHANNELS).min(channels);
    for tap in 0..taps {
        let start = panel * nr * taps * channels + (tap * channels + range.start) * width;
        // SAFETY: the rows (tap, range) of this panel are this chunk's alone.
        let rows = unsafe { packed.part(start, range.len() * width) };
        for (row, channel) in rows.chunks_exact_mut(width).zip(range.clone()) {
            let from = panel * nr * source.column_stride + channel * source.channel_stride + tap;
            for (j, value) in row.iter_mut().enumerate() {
                *value = if j < columns { weights[from + j * source.column_stride] } else { 0.0 };
            }
        }
    }
}

#[cfg(test)]
#[path = "gemm_tests.rs"]
mod tests;
