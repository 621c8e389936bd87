//! The CUDA backend: `lower` picks launches for each node, one file an op; [`exec`] puts the addresses in place, captures graphs and runs them; the rest
//! stands between those and the driver, which is found at run time.

mod accepts;
mod attention;
mod capture;
mod combine;
mod context;
mod conv2d;
mod driver;
mod elementwise;
pub mod exec;
mod gather;
mod group_norm;
mod head_product;
mod launch;
mod lower;
pub(crate) mod manifest;
mod memory;
mod modules;
mod muon;
mod optimizer;
mod quantize;
mod quantized_conv2d;
mod random;
mod reduce;
mod resample;
mod shape;
mod shared;
mod site;
mod target;
mod timestep_embedding;
mod transpose;
mod tuning;

pub use context::Foreign;
pub use driver::Device;
pub use exec::CudaExecutable;

use super::{Backend, Executable};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::{Graph, Numerics};
use context::Context;
use exec::Shared;
use std::sync::Arc;

/// A GPU as a device of the library.
pub struct CudaBackend {
    shared: Arc<Shared>,
}

impl CudaBackend {
    /// The GPU's primary context and a stream of our own.
    pub fn new(device: Device) -> Result<Self> {
        device.check_usable()?;
        Ok(Self { shared: Arc::new(Shared::new(Context::own(device)?)?) })
    }

    /// The caller's context and stream, which are used and never destroyed.
    ///
    /// # Safety
    /// They are alive for as long as the backend and every executable that it compiled.
    pub unsafe fn with_foreign(foreign: Foreign) -> Result<Self> {
        // SAFETY: as promised by the caller.
        let context = unsafe { Context::foreign(foreign)? };
        context.device.check_usable()?;
        Ok(Self { shared: Arc::new(Shared::new(context)?) })
    }

    /// Bytes of the packed weights that executables of this backend have now, all together.
    pub fn packed_bytes(&self) -> usize {
        self.shared.packed_bytes()
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.shared.context.device
    }
}

impl Backend for CudaBackend {
    fn compile_until(&self, graph: &Graph, numerics: &Numerics, stop: Stop) -> Result<Box<dyn Executable>> {
        Ok(Box::new(CudaExecutable::new(graph, numerics, &self.shared, stop)?))
    }
}
