//! Images, and what belongs to each, that stay in memory while a trainer draws from them.

use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::{Values, assign};
use crate::nn::{Condition, ConditionKind};
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Images [M,H,W,C] f32 in model space, usually [-1, 1], and what models are given with each: labels, planes and so on.
#[derive(Clone, Debug)]
pub struct Dataset {
    images: Arc<Tensor>,
    conditions: Vec<(ConditionKind, Arc<Tensor>)>,
}

impl Dataset {
    /// Of images alone, or with labels [M] i32. Checks that everything is finite and that the counts agree.
    pub fn new(images: Tensor, labels: Option<Tensor>) -> Result<Self> {
        if images.dtype() != DType::F32 || images.shape().len() != 4 || images.numel() == 0 {
            return Err(Error::shape(format!("a dataset is f32 [M,H,W,C] with at least one image, found {:?} {:?}", images.dtype(), images.shape())));
        }
        if images.shape()[0] > i32::MAX as usize {
            return Err(Error::shape(format!("a dataset holds at most {} images, found {}", i32::MAX, images.shape()[0])));
        }
        if let Some(i) = images.as_slice::<f32>()?.iter().position(|v| !v.is_finite()) {
            return Err(Error::numeric(format!("dataset image {} has a non-finite value", i / (images.numel() / images.shape()[0]))));
        }
        let this = Self { images: Arc::new(images), conditions: vec![] };
        labels.map_or(Ok(this.clone()), |labels| this.with(ConditionKind::Labels { classes: i32::MAX as usize }, labels))
    }

    /// With another condition of each image: labels i32 [M], or so many numbers f32 [M, K].
    pub fn with(mut self, kind: ConditionKind, rows: Tensor) -> Result<Self> {
        let expected = kind.rows(self.len(), self.size());
        if rows.dtype() != expected.dtype || rows.shape() != expected.shape {
            let (name, found) = (kind.name(), rows.shape());
            return Err(Error::shape(format!("{name} of {} images: expected {:?}, found {found:?}", self.len(), expected.shape)));
        }
        kind.check(Values::of(&rows)?, self.len(), self.size())?;
        memory::push(&mut self.conditions, (kind, Arc::new(rows)), "conditions")?;
        Ok(self)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.shape()[0]
    }

    /// Never: `new` refuses it.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// [M,H,W,C].
    pub fn images(&self) -> &Arc<Tensor> {
        &self.images
    }

    /// [H, W].
    pub fn size(&self) -> [usize; 2] {
        [self.images.shape()[1], self.images.shape()[2]]
    }

    /// What belongs to each image.
    pub fn conditions(&self) -> &[(ConditionKind, Arc<Tensor>)] {
        &self.conditions
    }

    /// [M] i32.
    pub fn labels(&self) -> Option<&Arc<Tensor>> {
        self.conditions.iter().find(|(kind, _)| matches!(kind, ConditionKind::Labels { .. })).map(|(_, rows)| rows)
    }

    /// The rows of each of a model's conditions; an error where they are missing or do not fit. What the model does not take is left out.
    pub fn conditions_of(&self, conditions: &[Condition]) -> Result<Vec<Arc<Tensor>>> {
        let kinds = memory::collect(self.conditions.iter().map(|(kind, _)| *kind), "conditions")?;
        let taken = assign(conditions, &kinds).map_err(|e| e.context("dataset"))?;
        let rows = conditions.iter().zip(taken).map(|(condition, from)| {
            let rows = &self.conditions[from].1;
            condition.kind.check(Values::of(rows)?, self.len(), self.size()).map_err(|e| e.context("dataset"))?;
            Ok(rows.clone())
        });
        memory::try_collect(rows, "conditions")
    }
}
