//! The search of students: what it counts, what it leaves out, in which order it answers.

use super::search::{Budget, StudentTable, Timing, measure, search};
use super::student::{Copied, StudentOptions, derive};
use super::student_tests::digits;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::error::{Result, Status};
use crate::nn::families::{parse, patched};
use crate::nn::{Cost, Model};
use crate::tensor::DType;
use std::sync::atomic::AtomicBool;

const STOP: Stop = Stop::NEVER;
const TIMING: Timing = Timing { batch: 2, size: [8, 8], precision: DType::F32, repeats: 1, steps: [4, 20] };

fn found(teacher: &Model, budget: Budget, most: usize, report: &mut dyn FnMut(usize, usize) -> bool) -> Result<StudentTable> {
    search(&CpuBackend::new(1)?, teacher, (budget, TIMING, most), report, STOP)
}

/// By hand: an output of a layer sums as many products as it has inputs, a number of attention's result twice as many as there are tokens.
#[test]
fn operations_are_those_of_the_layers() -> Result<()> {
    let resnet = |inputs: usize| 64 * 4 * 9 * inputs + 16 * 4 + 64 * 4 * 9 * 4 + if inputs == 4 { 0 } else { 64 * 4 * inputs };
    let (ends, time) = (2 * 64 * 4 * 9, 4 * 16 + 16 * 16);
    let plain = ends + time + resnet(4) + 2 * resnet(8);
    let mid = 2 * resnet(4) + 4 * 64 * 4 * 4 + 64 * 4 * 2 * 64;
    for (settings, products) in [(r#""mid_block_type":null"#, plain), (r#""attention_head_dim":2"#, plain + mid)] {
        let config = format!(
            r#"{{"sample_size":8,"in_channels":1,"out_channels":1,"layers_per_block":1,"block_out_channels":[4],"norm_num_groups":2,
            "down_block_types":["DownBlock2D"],"up_block_types":["UpBlock2D"],{settings}}}"#
        );
        let network = parse(&config, "config.json")?;
        let cost = Cost::of(network.as_ref(), [8, 8])?;
        assert_eq!(cost.flops, 2 * products as u64, "{settings}");
        assert_eq!(cost.parameters, network.parameters()?.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum::<u64>());
    }
    Ok(())
}

/// All that a search tries can be derived, of a teacher with every kind of block too.
#[test]
fn every_smaller_network_is_one() -> Result<()> {
    for teacher in [digits()?.network, parse(r#"{"_class_name":"UNet2DModel","sample_size":32}"#, "config.json")?] {
        let whole = Cost::of(teacher.as_ref(), [32, 32])?;
        let patches = teacher.smaller();
        assert!(patches[0].is_empty() && patches.len() > 90, "{}", patches.len());
        for patch in &patches[1..] {
            let cost = Cost::of(patched(teacher.as_ref(), patch)?.as_ref(), [32, 32]).map_err(|e| e.context(format!("{patch:?}")))?;
            let smaller = cost.parameters < whole.parameters || cost.parameters == whole.parameters && cost.flops < whole.flops;
            assert!(smaller && cost.flops <= whole.flops, "{patch:?}: {cost:?} {whole:?}");
        }
    }
    Ok(())
}

#[test]
fn rows_fit_the_budget_and_are_what_is_derived() -> Result<()> {
    let teacher = digits()?;
    let budget = Budget { parameters: Some(200_000), flops: Some(8_000_000), ms: None };
    let mut seen = vec![];
    let table = found(&teacher, budget, 4, &mut |done, total| {
        seen.push((done, total));
        true
    })?;
    assert_eq!((table.rows.len(), table.measured), (5, 4));
    assert!(table.candidates > 90 && seen.windows(2).all(|w| w[0].0 < w[1].0) && seen.last().is_some_and(|(done, total)| done == total), "{seen:?}");
    let exact = &table.rows[0];
    assert!(exact.patch.is_empty() && exact.speedup == 1.0 && exact.cost.parameters == teacher.parameter_count() as u64);
    assert!(table.rows[1..].windows(2).all(|w| w[0].cost.flops >= w[1].cost.flops));
    for row in &table.rows[1..] {
        assert!(row.cost.parameters <= 200_000 && row.cost.flops <= 8_000_000 && row.ms > 0.0, "{row:?}");
        assert!((row.speedup - exact.ms / row.ms).abs() <= 1e-12 * row.speedup, "{row:?}");
        let options = StudentOptions { config_patch: row.patch.clone(), weights: Copied::Channels, ..StudentOptions::default() };
        let student = derive(&teacher, &options, STOP)?;
        assert_eq!((student.parameter_count() as u64, 4 * student.parameter_count() as u64), (row.cost.parameters, row.weight_bytes));
        let own = measure(&CpuBackend::new(1)?, &teacher, &student, TIMING, STOP)?;
        assert!(own.cost == row.cost && own.weight_bytes == row.weight_bytes && own.speedup > 0.0, "{own:?}");
    }
    Ok(())
}

#[test]
fn a_search_may_find_nothing_and_may_be_stopped() -> Result<()> {
    let teacher = digits()?;
    // No machine evaluates a network in a picosecond: all that are small enough are measured, none fits.
    let few = Budget { parameters: Some(40_000), flops: None, ms: Some(1e-9) };
    let table = found(&teacher, few, 1, &mut |_, _| true)?;
    assert!(table.rows.len() == 1 && table.measured > 1 && table.measured < table.candidates, "{} {}", table.measured, table.candidates);
    let stopped = found(&teacher, few, 1, &mut |done, _| done < 2).map(drop);
    assert_eq!(stopped.map_err(|e| e.status), Err(Status::Cancelled));
    let flag = AtomicBool::new(true);
    let stopped = search(&CpuBackend::new(1)?, &teacher, (few, TIMING, 1), &mut |_, _| true, Stop::from(&flag)).map(drop);
    assert_eq!(stopped.map_err(|e| e.status), Err(Status::Cancelled));
    Ok(())
}
