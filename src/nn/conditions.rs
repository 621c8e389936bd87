//! What a network is given beside x_t and the timestep.

use crate::backend::as_bytes;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::memory;
use crate::tensor::{DType, Tensor};

/// One thing that a network is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name in programs and messages; no two of a network's are the same.
    pub name: String,
    /// What it is.
    pub kind: ConditionKind,
}

/// What a condition's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionKind {
    /// A whole number in `0..classes` for each image, i32 [N].
    Labels {
        /// How many there are.
        classes: usize,
    },
    /// A sequence of vectors for each image, such as a text encoder's, f32 [N,length,width].
    Tokens {
        /// Vectors of an image.
        length: usize,
        /// Numbers of a vector.
        width: usize,
    },
    /// A vector for each image, f32 [N,width].
    Vector {
        /// Numbers of a vector.
        width: usize,
    },
    /// Channels beside those of x_t, such as a low-resolution image that was enlarged, f32 [N,H,W,channels].
    Planes {
        /// How many.
        channels: usize,
    },
}

impl ConditionKind {
    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Labels { .. } => "class labels",
            Self::Tokens { .. } => "tokens",
            Self::Vector { .. } => "vectors",
            Self::Planes { .. } => "planes",
        }
    }

    /// Whether both are labels, or tokens, and so on, of whatever sizes.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// The type of the values of `n` images of [H, W].
    pub fn ty(self, n: usize, [h, w]: [usize; 2]) -> TensorType {
        match self {
            Self::Labels { .. } => TensorType::new(DType::I32, &[n]),
            Self::Tokens { length, width } => TensorType::f32(&[n, length, width]),
            Self::Vector { width } => TensorType::f32(&[n, width]),
            Self::Planes { channels } => TensorType::f32(&[n, h, w, channels]),
        }
    }

    /// The same with one row for each image, as data sets have it: i32 [n] or f32 [n, numbers of an image].
    pub fn rows(self, n: usize, size: [usize; 2]) -> TensorType {
        match self {
            Self::Labels { .. } => self.ty(n, size),
            _ => TensorType::f32(&[n, self.ty(1, size).numel()]),
        }
    }

    /// Refuses values that are not those of `n` images: another type or number of them, labels that are none, numbers that are not finite.
    pub fn check(self, values: Values, n: usize, size: [usize; 2]) -> Result<()> {
        let count = self.ty(n, size).numel();
        match (self, values) {
            (Self::Labels { classes }, Values::I32(labels)) => check_labels(labels, n, classes),
            (Self::Labels { .. }, _) | (_, Values::I32(_)) => Err(Error::shape(format!("{}: values of another type", self.name()))),
            (_, Values::F32(values)) if values.len() != count => {
                Err(Error::shape(format!("{}: {n} images need {count} numbers, found {}", self.name(), values.len())))
            }
            (_, Values::F32(values)) => match values.iter().position(|v| !v.is_finite()) {
                None => Ok(()),
                Some(i) => Err(Error::numeric(format!("{}: element {i} is {}; it must be finite", self.name(), values[i]))),
            },
        }
    }
}

/// Conditions in words.
pub fn describe(conditions: &[Condition]) -> String {
    let one = |c: &Condition| match c.kind {
        ConditionKind::Labels { classes } => format!("labels of {classes} classes"),
        ConditionKind::Tokens { length, width } => format!("{length} tokens of {width} numbers"),
        ConditionKind::Vector { width } => format!("vectors of {width} numbers"),
        ConditionKind::Planes { channels } => format!("{channels} planes"),
    };
    if conditions.is_empty() { "no conditions".to_owned() } else { conditions.iter().map(one).collect::<Vec<_>>().join(" and ") }
}

/// Numbers of a condition, image after image.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Labels.
    I32(&'a [i32]),
    /// Everything else.
    F32(&'a [f32]),
}

impl<'a> Values<'a> {
    /// All values of a tensor.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        Ok(if tensor.dtype() == DType::I32 { Self::I32(tensor.as_slice()?) } else { Self::F32(tensor.as_slice()?) })
    }

    /// As memory.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::I32(values) => as_bytes(values),
            Self::F32(values) => as_bytes(values),
        }
    }
}

/// Which of the things that were given, by their kinds, each condition takes: the first of its kind that no condition before it has. An error where one is
/// missing.
pub fn assign(conditions: &[Condition], given: &[ConditionKind]) -> Result<Vec<usize>> {
    let mut taken = memory::with_capacity(conditions.len(), "conditions")?;
    for condition in conditions {
        let free = (0..given.len()).find(|i| given[*i].is_like(condition.kind) && !taken.contains(i));
        let name = condition.kind.name();
        taken.push(free.ok_or_else(|| Error::invalid(format!("the model needs {name} (its condition {:?}), and there are none", condition.name)))?);
    }
    Ok(taken)
}

/// The same; an error too where something was given that no condition takes.
pub fn assign_all(conditions: &[Condition], given: &[ConditionKind]) -> Result<Vec<usize>> {
    let taken = assign(conditions, given)?;
    match (0..given.len()).find(|i| !taken.contains(i)) {
        None => Ok(taken),
        Some(i) => Err(Error::invalid(format!("{} were given, which the model does not take", given[i].name()))),
    }
}

/// Checks that there are `count` labels in `0..classes`.
pub fn check_labels(labels: &[i32], count: usize, classes: usize) -> Result<()> {
    if labels.len() != count {
        return Err(Error::shape(format!("expected {count} labels, found {}", labels.len())));
    }
    match labels.iter().position(|l| *l < 0 || *l as usize >= classes) {
        None => Ok(()),
        Some(i) => Err(Error::invalid(format!("label {} at index {i} is not in 0..{classes}", labels[i]))),
    }
}
