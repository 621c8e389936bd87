//! What was measured, one line of JSON a student: a study of hours may be stopped, and goes on with what is missing.

use super::rows::{Make, Numbers};
use fewstep::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// One student.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub row: String,
    pub steps: usize,
    pub seed: u64,
    #[serde(flatten)]
    pub numbers: Numbers,
    pub rmse: f64,
    /// Of the RMSE of each image.
    pub median: f64,
    pub p99: f64,
    /// Of training on one thread beside the other workers, trajectories apart.
    pub seconds: f64,
    /// Of the tree that trained it.
    pub commit: String,
}

/// The records of a file.
pub struct Results {
    path: PathBuf,
    pub records: Vec<Record>,
}

impl Results {
    /// What a file holds; nothing where there is none yet. A last line that a power cut has left without its end is taken off.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::invalid(format!("{}: {e}", path.display()));
        let mut text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(failed)?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            text.truncate(whole);
            std::fs::write(path, &text).map_err(failed)?;
        }
        let line = |(i, line): (usize, &str)| serde_json::from_str(line).map_err(|e| Error::invalid(format!("{}: line {}: {e}", path.display(), i + 1)));
        Ok(Self { path: path.to_owned(), records: text.lines().enumerate().map(line).collect::<Result<_>>()? })
    }

    pub fn add(&mut self, record: Record) -> Result<()> {
        let line = serde_json::to_string(&record).map_err(|e| Error::internal(e.to_string()))? + "\n";
        let written = OpenOptions::new().create(true).append(true).open(&self.path).and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|e| Error::invalid(format!("{}: {e}", self.path.display())))?;
        self.records.push(record);
        Ok(())
    }

    pub fn has(&self, row: &str, steps: usize, seed: u64, numbers: Numbers) -> bool {
        self.records.iter().any(|r| (r.row.as_str(), r.steps, r.seed, r.numbers) == (row, steps, seed, numbers))
    }

    /// Rows by steps, in Markdown: the mean of a cell's seeds, and each of them.
    pub fn table(&self, rows: &[(&str, Make)], steps: &[usize], numbers: Numbers) -> String {
        let mut text = "| row |".to_owned();
        for n in steps {
            let _ = write!(text, " {n} step{}: RMSE (each seed) | median, p99 |", if *n == 1 { "" } else { "s" });
        }
        text += &format!("\n| --- |{}\n", " --- | --- |".repeat(steps.len()));
        let (mut commits, mut all) = (vec![], 0);
        for (row, _) in rows {
            let of_row: Vec<_> = self.records.iter().filter(|r| r.row == *row && r.numbers == numbers && steps.contains(&r.steps)).collect();
            if of_row.is_empty() {
                continue;
            }
            all += of_row.len();
            commits.extend(of_row.iter().map(|r| r.commit.as_str()));
            let _ = write!(text, "| {row} |");
            steps.iter().for_each(|n| text += &cell(&of_row, *n));
            text.push('\n');
        }
        commits.sort_unstable();
        commits.dedup();
        let Numbers { samples, noises } = numbers;
        let _ = write!(text, "\n{all} students of {samples} samples and {noises} noises; commit {}.\n", commits.join(", "));
        text
    }
}

fn cell(of_row: &[&Record], steps: usize) -> String {
    let mut found: Vec<_> = of_row.iter().copied().filter(|r| r.steps == steps).collect();
    if found.is_empty() {
        return " | |".into();
    }
    found.sort_by_key(|r| r.seed);
    let each: Vec<_> = found.iter().map(|r| format!("{:.4}", r.rmse)).collect();
    format!(" **{:.4}** ({}) | {:.3}, {:.3} |", mean(&found, |r| r.rmse), each.join(" "), mean(&found, |r| r.median), mean(&found, |r| r.p99))
}

fn mean(records: &[&Record], of: fn(&Record) -> f64) -> f64 {
    records.iter().map(|r| of(r)).sum::<f64>() / records.len() as f64
}
