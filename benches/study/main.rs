//! What each objective is worth: students of digits trained from equal numbers of samples, judged by the ends of their runs against the teacher's.
//!
//! usage: cargo bench --bench study -- [ROW...] [steps=4,2,1] [seeds=3] [samples=98304] [noises=12288] [workers=CORES] [results=FILE] [write=FILE]
//!   rows are named in `rows`; all of them without names. As many students are trained at once as there are workers, each on one thread. A student that the
//!   file of results has is not trained again: delete it after a change. Prints the table of all that it has, and to stderr how far it is; `write` replaces a
//!   file's text from its first table on. The row `targets` trains nothing: it prints how far from the reference the states are that students are trained to
//!   match.

#[path = "../digits/mod.rs"]
mod digits;
mod results;
mod rows;

use fewstep::error::{Error, Result};
use results::{Record, Results};
use rows::{Make, Numbers, Study};
use std::path::PathBuf;
use std::sync::Mutex;

/// What the command line says.
struct Arguments {
    chosen: Vec<String>,
    steps: Vec<usize>,
    seeds: u64,
    numbers: Numbers,
    workers: usize,
    results: PathBuf,
    write: Option<PathBuf>,
}

/// A student that is to be trained.
struct Job {
    row: &'static str,
    make: Make,
    steps: usize,
    seed: u64,
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::invalid(format!("{name}={text}: not a number")))
}

impl Arguments {
    fn read() -> Result<Self> {
        let target = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.to_owned())).unwrap_or_default();
        let mut this = Self {
            chosen: vec![],
            steps: vec![4, 2, 1],
            seeds: 3,
            numbers: Numbers { samples: 98304, noises: 12288 },
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            results: target.join("study.jsonl"),
            write: None,
        };
        for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
            match argument.split_once('=') {
                Some(("steps", list)) => this.steps = list.split(',').map(|n| number("steps", n)).collect::<Result<_>>()?,
                Some(("seeds", n)) => this.seeds = number("seeds", n)?,
                Some(("samples", n)) => this.numbers.samples = number("samples", n)?,
                Some(("noises", n)) => this.numbers.noises = number("noises", n)?,
                Some(("workers", n)) => this.workers = number("workers", n)?,
                Some(("results", path)) => this.results = path.into(),
                Some(("write", path)) => this.write = Some(path.into()),
                _ => this.chosen.push(argument),
            }
        }
        Ok(this)
    }
}

/// The tree that trains; with a plus where it is not the commit's.
fn commit() -> String {
    let git = |arguments: &[&str]| std::process::Command::new("git").args(arguments).output().ok().filter(|out| out.status.success());
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|out| !out.stdout.is_empty());
    String::from_utf8_lossy(&head.stdout).trim().to_owned() + if changed { "+" } else { "" }
}

/// Students that share trajectories follow each other.
fn jobs(a: &Arguments, rows: &[(&'static str, Make)], results: &Results) -> Vec<Job> {
    let places = (1..=a.seeds).flat_map(|seed| a.steps.iter().map(move |steps| (seed, *steps)));
    let all = places.flat_map(|(seed, steps)| rows.iter().map(move |&(row, make)| Job { row, make, steps, seed }));
    all.filter(|job| !results.has(job.row, job.steps, job.seed, a.numbers)).collect()
}

type Queue = Mutex<std::vec::IntoIter<Job>>;

/// Trains jobs until there is none; after an error nobody begins another.
fn work(numbers: Numbers, commit: &str, jobs: &Queue, results: &Mutex<Results>) -> Result<()> {
    let done = train_all(numbers, commit, jobs, results);
    if let (Err(error), Ok(mut jobs)) = (&done, jobs.lock()) {
        eprintln!("{error}");
        jobs.by_ref().for_each(drop);
    }
    done
}

fn train_all(numbers: Numbers, commit: &str, jobs: &Queue, results: &Mutex<Results>) -> Result<()> {
    let study = Study::new(numbers)?;
    let next = || jobs.lock().ok()?.next();
    while let Some(Job { row, make, steps, seed }) = next() {
        let (found, seconds) = study.measure(make, steps, seed)?;
        eprintln!("{row}, {steps} steps, seed {seed}: {:.4} ({seconds:.0} s)", found.rmse);
        let record = Record { row: row.into(), steps, seed, numbers, rmse: found.rmse, median: found.median, p99: found.p99, seconds, commit: commit.into() };
        results.lock().map_err(|_| Error::internal("another worker panicked"))?.add(record)?;
    }
    Ok(())
}

/// The text of a file up to its first table, then the table.
fn write(path: &std::path::Path, table: &str) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let head = text.find("| row |").map_or(text.as_str(), |at| &text[..at]);
    std::fs::write(path, format!("{head}{table}")).map_err(failed)
}

fn main() -> Result<()> {
    let mut a = Arguments::read()?;
    let (mut rows, all) = (rows::rows(), a.chosen.is_empty());
    let targets = a.chosen.iter().position(|name| name == "targets").map(|at| a.chosen.remove(at));
    if let Some(unknown) = a.chosen.iter().find(|name| rows.iter().all(|(row, _)| row != name)) {
        let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
        return Err(Error::invalid(format!("no row {unknown}; there are targets, {}", names.join(", "))));
    }
    if all || targets.is_some() {
        Study::new(a.numbers)?.targets()?;
    }
    if !all && a.chosen.is_empty() {
        return Ok(());
    }
    rows.retain(|(name, _)| all || a.chosen.iter().any(|row| row == name));
    let results = Results::open(&a.results)?;
    let (jobs, commit) = (jobs(&a, &rows, &results), commit());
    eprintln!("{} students are missing in {}", jobs.len(), a.results.display());
    let (jobs, results) = (Mutex::new(jobs.into_iter()), Mutex::new(results));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..a.workers.max(1)).map(|_| scope.spawn(|| work(a.numbers, &commit, &jobs, &results))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| Error::internal("a worker panicked"))?)
    })?;
    let results = results.into_inner().map_err(|_| Error::internal("a worker panicked"))?;
    let table = results.table(&rows, &a.steps, a.numbers);
    print!("{table}");
    a.write.iter().try_for_each(|path| write(path, &table))
}
