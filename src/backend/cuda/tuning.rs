//! What was found best by measuring, a row a generation of GPUs. Limits that kernels set are in `cuda/shared.h`, not here: a number here that a test accepts may
//! be wrong, but only slow.

/// How work is cut for a generation.
#[derive(Debug, PartialEq)]
pub(super) struct Tuning {
    /// Launches may begin before those before them have ended, where the environment does not say.
    pub overlap: bool,
    pub conv: Conv,
    pub norm: Norm,
    pub attention: Attention,
    pub reduce: Reduce,
    /// Elements of a piece of the optimizer's: 16 a thread, which hides the loads of the piece's own addresses.
    pub optimizer_piece: usize,
}

/// Convolutions and their gradients.
#[derive(Debug, PartialEq)]
pub(super) struct Conv {
    /// A sum is cut from this many steps on: below, adding the parts costs more than it saves.
    pub worth_cutting: usize,
    /// Fewest steps of a slice: two of them only fill the pipeline.
    pub shortest_slice: usize,
    /// Steps of a slice that is long enough for what its block does before and after.
    pub long_slice: usize,
    /// Most slices: each is written and read once more.
    pub most_slices: usize,
    /// Blocks a multiprocessor to cut for, of large and of small tiles: enough warps to hide the latency of shared memory.
    pub resident: [usize; 2],
    /// The most channels of a group that each thread of a normalising convolution walks over on its own.
    pub norm_group: usize,
    /// Elements that a multiprocessor normalises in the time that a launch and a walk over a small map take, 3 microseconds: at 16 special functions a clock
    /// and two an element, 8 elements a clock of 0.6 ns (CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions").
    pub worth_normalising: usize,
}

/// Group norms.
#[derive(Debug, PartialEq)]
pub(super) struct Norm {
    /// Rows that a thread of a norm by moments takes at most: beyond, the block's scales are paid for.
    pub moment_rows: usize,
    /// The most channels of a group that each thread of it walks over on its own.
    pub moment_group: usize,
    /// A slab of at most so many elements is one block's work: a second launch costs more than its blocks would save.
    pub one_block: usize,
    /// The fewest elements that are worth a block.
    pub grain: usize,
    /// Blocks a multiprocessor to cut for.
    pub resident: usize,
}

/// Attention on tensor cores.
#[derive(Debug, PartialEq)]
pub(super) struct Attention {
    /// So many blocks a multiprocessor and no more may split the keys: each fetches them for a quarter of the queries.
    pub split_blocks: usize,
}

/// Sums.
#[derive(Debug, PartialEq)]
pub(super) struct Reduce {
    /// A slice is worth a block of its own from this many elements on.
    pub grain: usize,
    /// Blocks a multiprocessor to cut for.
    pub resident: usize,
}

/// By the first compute capability (times ten) of each generation, ascending. Only Hopper was measured, on an H200 (benches/gpu/README.md); until others are,
/// they have its row.
static GENERATIONS: [(u32, Tuning); 1] = [(0, HOPPER)];

const HOPPER: Tuning = Tuning {
    overlap: false,
    conv: Conv { worth_cutting: 16, shortest_slice: 4, long_slice: 16, most_slices: 64, resident: [2, 4], norm_group: 64, worth_normalising: 40_000 },
    norm: Norm { moment_rows: 8, moment_group: 64, one_block: 16 << 10, grain: 4 << 10, resident: 2 },
    attention: Attention { split_blocks: 2 },
    reduce: Reduce { grain: 4 << 10, resident: 2 },
    optimizer_piece: 4 << 10,
};

impl Tuning {
    /// For GPUs of this compute capability (times ten).
    pub fn of(capability: u32) -> &'static Self {
        let after = GENERATIONS.partition_point(|(first, _)| *first <= capability);
        &GENERATIONS[after.saturating_sub(1)].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_its_row() {
        assert!(GENERATIONS.is_sorted_by_key(|(first, _)| *first));
        for (first, row) in &GENERATIONS {
            assert_eq!(Tuning::of(*first), row);
        }
        for (first, Tuning { conv, norm, reduce, optimizer_piece, .. }) in &GENERATIONS {
            let least = [
                conv.shortest_slice,
                conv.long_slice,
                conv.most_slices,
                norm.moment_rows,
                norm.grain,
                norm.resident,
                reduce.grain,
                reduce.resident,
                *optimizer_piece,
            ];
            assert!(least.iter().chain(&conv.resident).all(|n| *n > 0), "{first}: a number that something is divided by is 0");
            assert!(conv.shortest_slice <= conv.worth_cutting, "{first}: a sum would be cut into pieces shorter than the shortest");
        }
        assert_eq!(Tuning::of(u32::MAX), &GENERATIONS[GENERATIONS.len() - 1].1, "later ones: the last");
    }
}
