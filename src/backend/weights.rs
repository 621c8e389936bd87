//! Packed weights, one copy for all executables of a backend: keyed by the tensors that they were packed from, and by how ([`Recipe`]). Executables hold them by
//! reference counts, so that the last one frees them; whoever prepares first packs them, and others wait for that.

use crate::error::Result;
use crate::graph::plan::{Location, SharedValue};
use crate::graph::{Plan, Recipe};
use crate::memory;
use crate::process::fork::Process;
use crate::tensor::Tensor;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What tables are called where there is no memory for them.
const WHAT: &str = "packed weights";

/// Weights in a buffer of the device, packed or about to be.
pub(super) struct Packed<B> {
    pub buffer: B,
    ready: Mutex<bool>,
}

impl<B> Packed<B> {
    /// Whether they are packed; until the guard goes nobody else packs them.
    pub fn ready(&self) -> MutexGuard<'_, bool> {
        // Who panicked while packing has not set it.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry<B> {
    recipe: Recipe,
    tensors: Vec<Weak<Tensor>>,
    packed: Weak<Packed<B>>,
}

impl<B> Entry<B> {
    fn lives(&self) -> bool {
        self.packed.strong_count() > 0 && self.tensors.iter().all(|tensor| tensor.strong_count() > 0)
    }

    fn is_of(&self, recipe: &Recipe, tensors: &[Arc<Tensor>]) -> bool {
        let same = |(known, tensor): (&Weak<Tensor>, &Arc<Tensor>)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(tensor));
        self.tensors.len() == tensors.len() && self.tensors.iter().zip(tensors).all(same) && self.recipe == *recipe
    }
}

/// The packed weights of a backend.
pub(super) struct Weights<B> {
    /// By the address of the first tensor.
    entries: Mutex<HashMap<usize, Vec<Entry<B>>>>,
    /// Where the table may be touched: in a child of a fork another thread of the parent may hold it, and never let go.
    home: Process,
}

impl<B> Drop for Weights<B> {
    fn drop(&mut self) {
        if !self.home.is_this() {
            // Perhaps half changed: left as it is.
            std::mem::forget(std::mem::take(self.entries.get_mut().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

impl<B> Weights<B> {
    /// None yet.
    pub fn new() -> Result<Self> {
        Ok(Self { entries: Mutex::default(), home: Process::current()? })
    }

    /// Those of a recipe and the tensors that it is of: those that somebody has, or new ones that nobody has packed yet. In a child of a fork always new ones.
    pub fn get(&self, recipe: &Recipe, tensors: &[Arc<Tensor>], buffer: impl FnOnce() -> Result<B>) -> Result<Arc<Packed<B>>> {
        if !self.home.is_this() {
            return Ok(Arc::new(Packed { buffer: buffer()?, ready: Mutex::new(false) }));
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entries| {
            entries.retain(Entry::lives);
            !entries.is_empty()
        });
        let key = tensors.first().map_or(0, |tensor| Arc::as_ptr(tensor) as usize);
        let known = entries.get(&key).and_then(|entries| entries.iter().find(|entry| entry.is_of(recipe, tensors))?.packed.upgrade());
        if let Some(packed) = known {
            return Ok(packed);
        }
        let packed = Arc::new(Packed { buffer: buffer()?, ready: Mutex::new(false) });
        let entry = Entry { recipe: recipe.clone(), tensors: memory::collect(tensors.iter().map(Arc::downgrade), WHAT)?, packed: Arc::downgrade(&packed) };
        if !entries.contains_key(&key) {
            memory::insert(&mut entries, key, vec![], WHAT)?;
        }
        memory::push(entries.entry(key).or_default(), entry, WHAT)?;
        Ok(packed)
    }

    /// Bytes of what somebody has now, by the size of a buffer; 0 in a child of a fork, where everybody has their own.
    pub fn bytes(&self, size: impl Fn(&B) -> usize) -> usize {
        if !self.home.is_this() {
            return 0;
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().flatten().filter_map(|entry| entry.packed.upgrade()).map(|packed| size(&packed.buffer)).sum()
    }

    /// For each shared value of a plan its weights. `tensor` has what a storage is bound to.
    pub fn of_plan(
        &self,
        plan: &Plan,
        tensor: impl Fn(usize) -> Result<Arc<Tensor>>,
        buffer: impl Fn(usize, &str) -> Result<B>,
    ) -> Result<Vec<Arc<Packed<B>>>> {
        let get = |shared: &SharedValue| {
            let tensors = memory::try_collect(shared.states.iter().map(|id| tensor(id.0 as usize)), WHAT)?;
            self.get(&shared.recipe, &tensors, || buffer(shared.bytes, &plan.graph().value(shared.value).name))
        };
        memory::try_collect(plan.shared().iter().map(get), WHAT)
    }
}

/// Which of the nodes that run once must run, where `ready` says which shared values are there already: those, and what only they are for, need not.
pub(super) fn must_run(plan: &Plan, ready: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let graph = plan.graph();
    let roots = graph.roots()?;
    let mut wanted = memory::filled(false, graph.values().len(), WHAT)?;
    let mut runs = memory::filled(false, plan.prepared(), WHAT)?;
    for at in (0..plan.prepared()).rev() {
        let node = &graph.nodes()[plan.order()[at].0 as usize];
        runs[at] = node.outputs.iter().any(|output| match plan.location(*output) {
            Location::Persistent(_) => true,
            Location::Shared(i) => !ready(i),
            _ => wanted[output.0 as usize],
        });
        if runs[at] {
            node.inputs.iter().for_each(|input| wanted[roots[input.0 as usize].0 as usize] = true);
        }
    }
    Ok(runs)
}

#[cfg(all(test, unix, not(miri)))]
mod tests {
    use super::*;
    use crate::graph::ops::{ConvGeometry, PackConv, PackFor};
    use crate::graph::{Graph, TensorType};

    /// A recipe and its tensors.
    fn recipe() -> Result<(Recipe, Vec<Arc<Tensor>>)> {
        let mut g = Graph::new();
        let w = g.state("w", TensorType::f32(&[8, 8, 3, 3]))?;
        let geometry = ConvGeometry { kernel: [3, 3], stride: 1, pad: [1; 4] };
        let value = g.push1(PackConv { purpose: PackFor::Forward, geometry, packed: TensorType::f32(&[8 * 8 * 9]).into() }.into(), &[w])?;
        let (recipe, _) = Recipe::of(&g, value).expect("packed weights");
        Ok((recipe, vec![Arc::new(Tensor::zeros(crate::tensor::DType::F32, &[8, 8, 3, 3])?)]))
    }

    /// Whatever other threads of the parent held when it forked, a child gets weights of its own and waits for nobody.
    #[test]
    fn a_child_waits_for_nobody() -> Result<()> {
        let weights = Weights::<Vec<u8>>::new()?;
        let (recipe, tensors) = recipe()?;
        let shared = weights.get(&recipe, &tensors, || Ok(vec![1]))?;
        assert!(Arc::ptr_eq(&shared, &weights.get(&recipe, &tensors, || Ok(vec![2]))?));
        let (_table, _packing) = (weights.entries.lock(), shared.ready());
        // SAFETY: the child asks for weights, looks at them and leaves; should it wait, the alarm ends it.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                unsafe { libc::alarm(10) };
                let own = weights.get(&recipe, &tensors, || Ok(vec![3]));
                let good = own.is_ok_and(|own| own.buffer == [3] && !*own.ready() && weights.bytes(Vec::len) == 0);
                // SAFETY: ends the child without running anything of the test harness.
                unsafe { libc::_exit(i32::from(!good)) }
            }
            child => {
                let mut status = -1;
                // SAFETY: waits for the child just made.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the child waited, or got its parent's");
            }
        }
        Ok(())
    }
}
