//! Where blocks of memory with known lifetimes lie in one arena.

use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::memory;

/// What the layout's tables are called where there is no memory for them.
const WHAT: &str = "layout";

/// Nodes of a span. Blocks are compared with those alone that live in a span that they live in too, so that the work grows with the program's length
/// and not with its square.
const SPAN: usize = 32;

/// Bytes that are needed from one node of the order to another, both included.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Size.
    pub bytes: usize,
    /// The first node that needs them.
    pub first: usize,
    /// The last one.
    pub last: usize,
}

/// The places of blocks.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Of each block.
    pub offsets: Vec<usize>,
    /// The end of the last one.
    pub arena_bytes: usize,
    /// The largest sum of bytes that are needed at one time: no layout can be smaller.
    pub peak_bytes: usize,
    /// How many pairs of blocks were compared, which is what it cost.
    pub comparisons: usize,
}

/// Greedy by size: the largest block first, each at the lowest offset that is free for its whole life (Pisarchyk & Lee 2020, "offset calculation").
/// `end` is the time after the last node.
pub fn lay_out(blocks: &[Block], end: usize, stop: Stop) -> Result<Layout> {
    let mut layout = Layout { offsets: memory::filled(0, blocks.len(), WHAT)?, peak_bytes: peak(blocks, end)?, ..Layout::default() };
    let mut order = memory::collect(0..blocks.len(), WHAT)?;
    order.sort_unstable_by_key(|i| (std::cmp::Reverse(blocks[*i].bytes), blocks[*i].first, *i));
    let mut living = Living { spans: memory::filled(vec![], end / SPAN + 1, WHAT)?, seen: memory::filled(usize::MAX, blocks.len(), WHAT)?, found: vec![] };
    for at in order {
        stop.check()?;
        let block = &blocks[at];
        let contemporaries = living.with(at, blocks, &layout.offsets)?;
        layout.comparisons += contemporaries.len();
        let mut offset = 0usize;
        for (start, other) in contemporaries {
            if blocks[*other].first <= block.last && block.first <= blocks[*other].last {
                if offset.checked_add(block.bytes).ok_or_else(too_large)? <= *start {
                    break;
                }
                offset = offset.max(start + blocks[*other].bytes);
            }
        }
        layout.offsets[at] = offset;
        layout.arena_bytes = layout.arena_bytes.max(offset.checked_add(block.bytes).ok_or_else(too_large)?);
        living.add(at, block)?;
    }
    Ok(layout)
}

/// The blocks that have a place, by the spans that they live in.
struct Living {
    spans: Vec<Vec<usize>>,
    /// For each block, the one for which it was found last.
    seen: Vec<usize>,
    found: Vec<(usize, usize)>,
}

impl Living {
    fn spans(block: &Block) -> std::ops::RangeInclusive<usize> {
        block.first / SPAN..=block.last / SPAN
    }

    /// Those that live in a span of block `at`, with their offsets and by them.
    fn with(&mut self, at: usize, blocks: &[Block], offsets: &[usize]) -> Result<&[(usize, usize)]> {
        self.found.clear();
        for other in self.spans[Self::spans(&blocks[at])].iter().flatten() {
            if self.seen[*other] != at {
                self.seen[*other] = at;
                memory::push(&mut self.found, (offsets[*other], *other), WHAT)?;
            }
        }
        self.found.sort_unstable();
        Ok(&self.found)
    }

    fn add(&mut self, at: usize, block: &Block) -> Result<()> {
        self.spans[Self::spans(block)].iter_mut().try_for_each(|span| memory::push(span, at, WHAT))
    }
}

/// The largest sum of bytes that are needed at one time.
fn peak(blocks: &[Block], end: usize) -> Result<usize> {
    let (mut born, mut freed) = (memory::filled(0usize, end + 1, WHAT)?, memory::filled(0usize, end + 1, WHAT)?);
    for b in blocks {
        born[b.first] = born[b.first].checked_add(b.bytes).ok_or_else(too_large)?;
        freed[b.last] = freed[b.last].checked_add(b.bytes).ok_or_else(too_large)?;
    }
    let (mut live, mut peak) = (0usize, 0);
    for (born, freed) in born.into_iter().zip(freed) {
        live = live.checked_add(born).ok_or_else(too_large)?;
        peak = peak.max(live);
        live -= freed;
    }
    Ok(peak)
}

/// The error of sizes whose sum has no number.
pub(super) fn too_large() -> Error {
    Error::out_of_memory("the plan needs more memory than can be addressed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same rule with every block compared with every other one.
    fn by_all_pairs(blocks: &[Block]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(blocks[*i].bytes), blocks[*i].first));
        let mut offsets = vec![0; blocks.len()];
        for (n, at) in order.iter().enumerate() {
            let block = &blocks[*at];
            let lives = |o: &&usize| blocks[**o].first <= block.last && block.first <= blocks[**o].last;
            let mut others: Vec<usize> = order[..n].iter().filter(lives).copied().collect();
            others.sort_by_key(|o| offsets[*o]);
            for other in others {
                if offsets[*at] + block.bytes <= offsets[other] {
                    break;
                }
                offsets[*at] = offsets[*at].max(offsets[other] + blocks[other].bytes);
            }
        }
        offsets
    }

    /// Numbers below `n`: a linear congruential generator (Knuth's MMIX), its high bits.
    fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
        move |n| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        }
    }

    #[test]
    fn the_places_are_those_of_comparing_all_pairs() -> Result<()> {
        // Short lives, long ones, and both; lives that begin and end on the borders of spans; equal sizes.
        for (seed, count, end, longest) in [(1, 300, 200, 5), (2, 300, 500, 400), (3, 500, 3000, 130), (4, 40, 64, 64), (5, 200, 129, 3), (6, 1, 0, 1)] {
            let mut below = numbers(seed);
            let blocks: Vec<Block> = (0..count)
                .map(|_| {
                    let first = below(end + 1);
                    let life = if below(10) == 0 { longest * 4 } else { longest };
                    Block { bytes: 64 * (1 + below(20)), first, last: (first + below(life)).min(end) }
                })
                .collect();
            let layout = lay_out(&blocks, end, Stop::NEVER)?;
            assert_eq!(layout.offsets, by_all_pairs(&blocks), "seed {seed}");
            assert!(layout.peak_bytes <= layout.arena_bytes);
        }
        Ok(())
    }

    #[test]
    fn the_work_grows_with_the_length() -> Result<()> {
        let compared = |nodes: usize| -> Result<usize> {
            let mut below = numbers(7);
            let blocks: Vec<Block> = (0..nodes).map(|first| Block { bytes: 64 * (1 + below(50)), first, last: (first + 1 + below(30)).min(nodes) }).collect();
            Ok(lay_out(&blocks, nodes, Stop::NEVER)?.comparisons / nodes)
        };
        let (short, long) = (compared(5_000)?, compared(100_000)?);
        assert!(short > 0 && long <= short + 1, "{short} comparisons a block of 5,000, {long} of 100,000");
        Ok(())
    }

    #[test]
    fn it_stops() {
        let flag = std::sync::atomic::AtomicBool::new(true);
        let block = Block { bytes: 64, first: 0, last: 0 };
        assert_eq!(lay_out(&[block], 1, Stop::from(&flag)).expect_err("stopped").status, crate::Status::Cancelled);
    }
}
