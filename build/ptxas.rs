//! What ptxas -v says that each kernel uses.

use std::collections::HashMap;

/// A kernel's needs on one architecture, in bytes but for the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Shared memory a block, without what a launch adds and without the KiB that the driver keeps from compute capability 9.0 on. That one is why this is
    /// read here: the cubin's `.nv.shared` sections contain it, and nothing in every such cubin tells how much it is.
    pub static_shared: u32,
    /// Local memory a thread, spilled registers among it.
    pub stack: u32,
    /// Written to spill registers.
    pub spill_stores: u32,
    /// Read to fill them again.
    pub spill_loads: u32,
}

/// By kernel.
pub fn parse(log: &str) -> HashMap<String, Usage> {
    let mut usages: HashMap<String, Usage> = HashMap::new();
    let (mut kernel, mut function) = (None, None);
    for line in log.lines() {
        if let Some(name) = quoted_after(line, "Compiling entry function '") {
            kernel = Some(name);
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = Some(name.trim());
        }
        let Some(kernel) = kernel else { continue };
        let usage = usages.entry(kernel.to_owned()).or_default();
        if let Some(registers) = before(line, " registers") {
            usage.registers = registers;
            usage.static_shared = before(line, " bytes smem").unwrap_or(0);
        }
        // A function that the kernel calls has such a line, too.
        if let (Some(stack), true) = (before(line, " bytes stack frame"), function == Some(kernel)) {
            usage.stack = stack;
            usage.spill_stores = before(line, " bytes spill stores").unwrap_or(0);
            usage.spill_loads = before(line, " bytes spill loads").unwrap_or(0);
        }
    }
    usages
}

fn quoted_after<'a>(line: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(words)?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// The number that stands before a unit.
fn before(line: &str, unit: &str) -> Option<u32> {
    let (front, _) = line.split_once(unit)?;
    front.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
