//! Images and labels that stay in memory while a trainer draws from them.

use crate::error::{Error, Result};
use crate::nn::conditions::check_labels;
use crate::tensor::{DType, Tensor};
use std::sync::Arc;

/// Images [M,H,W,C] f32 in model space, usually [-1, 1], and one label each where there are classes.
#[derive(Clone, Debug)]
pub struct Dataset {
    images: Arc<Tensor>,
    labels: Option<Arc<Tensor>>,
}

impl Dataset {
    /// Checks that everything is finite and that the counts agree.
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
        if let Some(labels) = &labels {
            check_labels(labels.as_slice::<i32>()?, images.shape()[0], i32::MAX as usize)?;
        }
        Ok(Self { images: Arc::new(images), labels: labels.map(Arc::new) })
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

    /// [M] i32.
    pub fn labels(&self) -> Option<&Arc<Tensor>> {
        self.labels.as_ref()
    }

    /// Refuses labels that a model has no class for, and missing labels for a model that needs them.
    pub fn check_classes(&self, classes: Option<usize>) -> Result<()> {
        match (classes, &self.labels) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Error::invalid("the model is class-conditional and the dataset has no labels")),
            (Some(classes), Some(labels)) => check_labels(labels.as_slice::<i32>()?, self.len(), classes).map_err(|e| e.context("dataset")),
        }
    }
}
