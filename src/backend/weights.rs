//! Packed weights, one copy for all executables of a backend: keyed by the tensors that they were packed from, and by how ([`Recipe`]). Executables hold them by
//! reference counts, so that the last one frees them; whoever prepares first packs them, and others wait for that.

use crate::error::Result;
use crate::graph::plan::{Location, SharedValue};
use crate::graph::{Plan, Recipe};
use crate::memory;
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
}

impl<B> Default for Weights<B> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<B> Weights<B> {
    /// Those of a recipe and the tensors that it is of: those that somebody has, or new ones that nobody has packed yet.
    pub fn get(&self, recipe: &Recipe, tensors: &[Arc<Tensor>], buffer: impl FnOnce() -> Result<B>) -> Result<Arc<Packed<B>>> {
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

    /// Bytes of what somebody has now, by the size of a buffer.
    pub fn bytes(&self, size: impl Fn(&B) -> usize) -> usize {
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
