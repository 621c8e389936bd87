//! Models whose steps have parameters of their own: how they begin, and which of them an evaluation reads.

use super::model::{Model, StudentInfo};
use super::per_step::{PerStep, Step};
use super::scope::OwnSteps;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

impl Model {
    /// The grid whose steps have parameters of their own, if they have.
    pub fn own_steps(&self) -> Option<&[(i64, i64)]> {
        self.student.as_ref().filter(|student| !student.per_step.is_none()).map(|student| student.pairs.as_slice())
    }

    /// What each step has of its own.
    pub fn per_step(&self) -> PerStep {
        self.student.as_ref().map_or(PerStep::None, |student| student.per_step)
    }

    /// The same model as the student of a grid, each of whose steps begins with what all of them shared.
    pub fn for_grid(mut self, pairs: Vec<(i64, i64)>, per_step: PerStep) -> Result<Self> {
        for parameter in self.network.parameters()? {
            let shape = per_step.shape(&parameter, pairs.len());
            if let Some(shared) = self.weights.get_mut(&parameter.name).filter(|shared| shared.shape() != shape) {
                let (mut own, all) = (Tensor::zeros(DType::F32, &shape)?, shared.to_f32()?);
                own.as_mut_slice::<f32>()?
                    .chunks_exact_mut(all.numel().max(1))
                    .try_for_each(|row| all.as_slice::<f32>().map(|all| row.copy_from_slice(all)))?;
                *shared = Arc::new(own);
            }
        }
        self.student = Some(Box::new(StudentInfo { version: StudentInfo::VERSION, pairs, teacher_substeps: 0, per_step }));
        Ok(self)
    }

    /// Which steps' parameters an evaluation reads, where the steps have any.
    pub(super) fn steps_read(&self, g: &mut Graph, step: Option<Step>) -> Result<Option<OwnSteps>> {
        let Some(pairs) = self.own_steps() else { return Ok(None) };
        let step = step.ok_or_else(|| Error::internal("an evaluation off the grid of a student whose steps have parameters of their own"))?;
        let index = match step {
            Step::Rows(index) => index,
            Step::All(k) => g.constant("step", Tensor::from_slice(&[1], &[i32::try_from(k).map_err(|_| Error::internal("a step without a number"))?])?)?,
        };
        Ok(Some(OwnSteps { count: pairs.len(), index }))
    }
}
