//! In which forms a value is in a file.

/// The form that an op has found its operand in, and gives its result in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Row-major in the graph's order, under this shape; -1 is the batch and what is multiplied with it.
    Rows(Vec<i64>),
    /// [N, C, ...].
    First,
}

/// Whole numbers that stand for a value.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// Of the numbers.
    pub name: String,
    /// Of the scale, a scalar.
    pub scale: String,
    /// Of the zero point, a scalar.
    pub zero: String,
    /// The scale itself.
    pub factor: f32,
    /// The form that they are in.
    pub form: Form,
}

/// The names of the forms that a value has.
#[derive(Default)]
pub(super) struct Forms {
    /// As rows, under each shape that somebody has asked for.
    pub rows: Vec<(Vec<i64>, String)>,
    /// With its channels first.
    pub first: Option<String>,
    /// Whole numbers that it stands for, if it does.
    pub numbers: Option<Numbers>,
}

/// The shape in a file of a value of one image: its rows are those of the batch.
pub(super) fn batched(shape: &[usize]) -> Vec<i64> {
    std::iter::once(-1).chain(shape.iter().skip(1).map(|d| *d as i64)).collect()
}

/// The order of dimensions that takes channels of a value of this rank from the second place to the last.
pub(super) fn channels_last(rank: usize) -> Vec<i64> {
    let rank = rank as i64;
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

/// And back.
pub(super) fn channels_second(rank: usize) -> Vec<i64> {
    let rank = rank as i64;
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}
