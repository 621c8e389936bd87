//! Weights as kernels read them: panels of as many output channels as a tile is wide, in each the steps of the sum. Weights that there are not (channels that
//! fill up a vector, bytes that fill up a step) are 0, so that it does not matter what they are multiplied with.

use super::super::conv::ConvShape;
use super::super::pool::Shared;
use super::super::workers::Workers;
use super::staging::LINE;
use crate::error::{Error, Result};
use half::bf16;

/// Channels of a panel for tiles.
pub(in super::super) const TILE_COLUMNS: usize = 32;
/// Bytes of a step of such a panel: two tiles.
const TILE_STEP: usize = 2048;

/// How the steps of a panel are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `[kernel row][step][channel][depth]`: runs of bytes along a row of the kernel, cut into steps of `depth`.
    Steps {
        /// Bytes of a step.
        depth: usize,
    },
    /// The same by fours, after 128 times each channel's sum as i32, which signed bytes lack.
    SignedSteps,
    /// Steps of four, those that fit 16 bits in pairs first, those that do not fit at all twice.
    Examined,
    /// `[kernel row][kernel column][64 bytes of channels][half of the panel][four bytes of them][16 channels of the output][4 bytes]`.
    Tiles {
        /// Bytes of a weight.
        size: usize,
    },
}

impl Packing {
    pub(super) fn is_tiles(self) -> bool {
        matches!(self, Self::Tiles { .. })
    }
}

/// Where weights stand before they are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stored {
    /// `[output][input][r][s]`, as the convolution has them.
    Plain,
    /// `[input][output][r][s]`, to be turned by half a turn: those of the convolution whose input gradient this one is.
    Turned,
}

/// What decides how weights are packed, and what does not depend on the size of images.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub packing: Packing,
    /// Channels of a panel, and of a vector.
    pub width: usize,
    pub lanes: usize,
    /// Output and input channels, height and width of the kernel.
    pub n: usize,
    pub channels: usize,
    pub taps: [usize; 2],
    /// The largest number that weights will meet.
    pub most: u8,
    pub stored: Stored,
}

impl Plan {
    pub fn new(shape: &ConvShape, packing: Packing, [width, lanes]: [usize; 2], most: u8) -> Self {
        Self { packing, width, lanes, n: shape.c_out, channels: shape.c_in, taps: [shape.r, shape.s], most, stored: Stored::Plain }
    }

    /// Weights of a step, for one channel of the output.
    fn depth(&self) -> usize {
        match self.packing {
            Packing::Steps { depth } => depth,
            Packing::SignedSteps | Packing::Examined => 4,
            Packing::Tiles { size } => LINE / size,
        }
    }

    /// Products of a kernel row, or of a tap for tiles.
    fn run(&self) -> usize {
        if self.packing.is_tiles() { self.channels } else { self.taps[1] * self.channels }
    }

    /// Runs there are.
    fn runs(&self) -> usize {
        if self.packing.is_tiles() { self.taps[0] * self.taps[1] } else { self.taps[0] }
    }

    /// Steps of a sum.
    pub fn steps(&self) -> usize {
        self.runs() * self.run().div_ceil(self.depth())
    }

    /// The run of a step, and the step's place in it.
    pub fn step(&self, step: usize) -> [usize; 2] {
        let each = self.run().div_ceil(self.depth());
        [step / each, step % each * self.depth()]
    }

    /// Channels of a panel with those that fill up its last vector.
    fn columns(&self, panel: usize) -> usize {
        if self.packing.is_tiles() { self.width } else { (self.n - panel * self.width).min(self.width).next_multiple_of(self.lanes) }
    }

    pub fn panels(&self) -> usize {
        self.n.div_ceil(self.width)
    }

    fn bytes_of(&self, columns: usize) -> Option<usize> {
        let steps = self.steps();
        match self.packing {
            Packing::Steps { depth } => steps.checked_mul(columns)?.checked_mul(depth),
            Packing::SignedSteps => steps.checked_add(1)?.checked_mul(columns)?.checked_mul(4),
            Packing::Examined => steps.checked_mul(8)?.next_multiple_of(LINE).checked_add(LINE)?.checked_add(steps.checked_mul(columns)?.checked_mul(8)?),
            Packing::Tiles { .. } => steps.checked_mul(TILE_STEP),
        }
    }

    /// Bytes of a whole panel; `None` where memory ends.
    pub fn panel_bytes(&self) -> Option<usize> {
        self.bytes_of(self.width)
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> Option<usize> {
        let last = self.panels() - 1;
        self.panel_bytes()?.checked_mul(last)?.checked_add(self.bytes_of(self.columns(last))?).filter(|bytes| *bytes <= isize::MAX as usize)
    }

    /// The bytes of all panels, if there are so many, of so many weights.
    fn check(&self, weights: usize, packed: usize) -> Result<usize> {
        let (expected, bytes) = (self.n * self.channels * self.taps[0] * self.taps[1], self.bytes().unwrap_or(0));
        if weights != expected || packed != bytes {
            return Err(Error::shape(format!("packing {self:?}: expected {expected} weights and {bytes} packed bytes, found {weights} and {packed}")));
        }
        Ok(bytes)
    }

    /// Packs `weights`, rounded, into `out` of [`Plan::bytes`], which are tiles of bf16.
    pub fn pack_bf16(&self, weights: &[f32], out: &mut [bf16], pool: Workers) -> Result<()> {
        if self.packing != (Packing::Tiles { size: size_of::<bf16>() }) {
            return Err(Error::internal(format!("{self:?} of bf16")));
        }
        self.check(weights.len(), size_of_val(out))?;
        let steps = self.steps();
        let out = Shared::new(out);
        const STEP: usize = TILE_STEP / size_of::<bf16>();
        pool.run(self.panels(), &|panel| {
            // SAFETY: every panel is one chunk's.
            let part = unsafe { out.part(panel * steps * STEP, steps * STEP) };
            part.chunks_exact_mut(STEP).enumerate().for_each(|(step, out)| self.pack_bf16_step(weights, panel * self.width, step, out));
        })
    }

    /// A step: pairs of channels of 32 outputs.
    fn pack_bf16_step(&self, weights: &[f32], first: usize, step: usize, out: &mut [bf16]) {
        let ([tap, at], taps) = (self.step(step), self.taps[0] * self.taps[1]);
        let columns = (self.n - first).min(self.width);
        // Distances of outputs and of input channels, and which tap.
        let (column_stride, channel_stride, tap) = match self.stored {
            Stored::Plain => (self.channels * taps, taps, tap),
            Stored::Turned => (taps, self.n * taps, taps - 1 - tap),
        };
        for (i, pair) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (column, channel) = (i / (TILE_STEP / 8) * (TILE_COLUMNS / 2) + i % 16, at + i / 16 % 16 * 2);
            for (k, to) in pair.iter_mut().enumerate() {
                let there = column < columns && channel + k < self.channels;
                let from = (first + column) * column_stride + (channel + k) * channel_stride + tap;
                *to = if there { bf16::from_f32(weights[from]) } else { bf16::ZERO };
            }
        }
    }

    /// A weight by its place in a run; 0 beyond.
    fn weight(&self, weights: &[i8], column: usize, run: usize, at: usize) -> i8 {
        if column >= self.n || at >= self.run() {
            return 0;
        }
        let [height, width] = self.taps;
        let (r, s, c) = if self.packing.is_tiles() { (run / width, run % width, at) } else { (run, at / self.channels, at % self.channels) };
        weights[((column * self.channels + c) * height + r) * width + s]
    }

    /// Packs `weights [K, C, R, S]` into `out` of [`Plan::bytes`].
    pub fn pack(&self, weights: &[i8], out: &mut [i8], pool: Workers) -> Result<()> {
        let bytes = self.check(weights.len(), out.len())?;
        if let Some(at) = weights.iter().position(|w| *w == i8::MIN) {
            return Err(Error::invalid(format!("weight {at} is -128; quantised weights are -127 to 127")));
        }
        let whole = self.panel_bytes().unwrap_or(0);
        let out = Shared::new(out);
        pool.run(self.panels(), &|panel| {
            // SAFETY: every panel is one chunk's.
            let part = unsafe { out.part(panel * whole, whole.min(bytes - panel * whole)) };
            self.pack_panel(weights, panel, part);
        })
    }

    fn pack_panel(&self, weights: &[i8], panel: usize, out: &mut [i8]) {
        let (first, columns) = (panel * self.width, self.columns(panel));
        match self.packing {
            Packing::Steps { .. } => self.pack_steps(weights, first, columns, out),
            Packing::SignedSteps => {
                let (head, rest) = out.split_at_mut(4 * columns);
                self.pack_steps(weights, first, columns, rest);
                for (j, head) in head.chunks_exact_mut(4).enumerate() {
                    let of_column = rest.chunks_exact(4 * columns).flat_map(|step| &step[4 * j..4 * j + 4]);
                    let sum: i32 = of_column.map(|w| i32::from(*w)).sum();
                    head.copy_from_slice(&(128 * sum).to_ne_bytes().map(|b| b as i8));
                }
            }
            Packing::Examined => self.pack_examined(weights, first, columns, out),
            Packing::Tiles { .. } => {
                for (step, out) in out.chunks_exact_mut(TILE_STEP).enumerate() {
                    let [run, at] = self.step(step);
                    for (i, out) in out.iter_mut().enumerate() {
                        let (half, quarter, column, byte) = (i / (TILE_STEP / 2), i / LINE % 16, i / 4 % 16, i % 4);
                        *out = self.weight(weights, first + half * (TILE_COLUMNS / 2) + column, run, at + 4 * quarter + byte);
                    }
                }
            }
        }
    }

    /// Every step's weights, channel after channel.
    fn pack_steps(&self, weights: &[i8], first: usize, columns: usize, out: &mut [i8]) {
        let depth = self.depth();
        for (step, out) in out.chunks_exact_mut(columns * depth).enumerate() {
            self.one_step(weights, first, step, out);
        }
    }

    fn one_step(&self, weights: &[i8], first: usize, step: usize, out: &mut [i8]) {
        let ([run, at], depth) = (self.step(step), self.depth());
        for (i, out) in out.iter_mut().enumerate() {
            *out = self.weight(weights, first + i / depth, run, at + i % depth);
        }
    }

    /// Whether no number up to `most` overflows a 16-bit lane of these steps, added.
    fn fits(&self, steps: &[i8], columns: usize) -> bool {
        let most = i32::from(self.most);
        (0..2 * columns).all(|lane| {
            let of_lane = || steps.chunks_exact(4 * columns).flat_map(|step| &step[2 * lane..2 * lane + 2]).map(|w| i32::from(*w));
            let [up, down] = [of_lane().map(|w| w.max(0)).sum::<i32>(), of_lane().map(|w| w.min(0)).sum::<i32>()];
            up * most <= i32::from(i16::MAX) && down * most >= i32::from(i16::MIN)
        })
    }

    fn pack_examined(&self, weights: &[i8], first: usize, columns: usize, out: &mut [i8]) {
        let (steps, size) = (self.steps(), 4 * columns);
        out.fill(0);
        let (head, rest) = out.split_at_mut(LINE);
        let (indices, body) = rest.split_at_mut((8 * steps).next_multiple_of(LINE));
        let (mut count, mut pairs) = (0, 0);
        let mut two = [0i8; 2 * 4 * super::task::MAX_COLUMNS];
        // First the steps that go in pairs, then the others: two looks at all of them take no memory.
        for pass in 0..2 {
            for start in (0..steps).step_by(2) {
                let here = (steps - start).min(2);
                let two = &mut two[..here * size];
                two.chunks_exact_mut(size).enumerate().for_each(|(i, out)| self.one_step(weights, first, start + i, out));
                let paired = here == 2 && self.fits(two, columns);
                if paired != (pass == 0) {
                    continue;
                }
                pairs += usize::from(paired);
                for (i, step) in two.chunks_exact(size).enumerate() {
                    let whole = paired || self.fits(step, columns);
                    for part in if whole { 2..3 } else { 0..2 } {
                        indices[4 * count..4 * count + 4].copy_from_slice(&((start + i) as u32).to_ne_bytes().map(|b| b as i8));
                        let taken = body[count * size..][..size].iter_mut().zip(step).enumerate();
                        taken.for_each(|(at, (to, w))| *to = if part == 2 || at % 2 == part { *w } else { 0 });
                        count += 1;
                    }
                }
            }
        }
        head[..4].copy_from_slice(&(count as u32).to_ne_bytes().map(|b| b as i8));
        head[4..8].copy_from_slice(&(pairs as u32).to_ne_bytes().map(|b| b as i8));
    }
}

/// A panel for vpmaddubsw: 64 bytes with the number of steps taken and of pairs among them; the steps' indices as u32, room for twice as many as there are;
/// the weights of each, `[channel][4]`. The first `2 * pairs` may be added two by two in 16 bits.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // read by the kernel for AVX2 alone
pub(super) struct Examined {
    pub count: usize,
    pub pairs: usize,
    pub steps: *const u32,
    pub weights: *const i8,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
impl Examined {
    /// Reads a panel's head.
    ///
    /// # Safety
    /// `panel` was packed for sums of `steps` steps.
    #[inline(always)]
    pub unsafe fn read(panel: *const i8, steps: usize) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let head = panel.cast::<[u32; 2]>().read_unaligned();
            let indices = panel.add(LINE);
            Self { count: head[0] as usize, pairs: head[1] as usize, steps: indices.cast(), weights: indices.add((8 * steps).next_multiple_of(LINE)) }
        }
    }
}
