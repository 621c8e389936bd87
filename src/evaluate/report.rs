//! What an evaluation found: a row for each set of images, a column for each metric; as text and as JSON.

use super::distribution::Distribution;
use super::paired::Paired;
use crate::error::Result;
use crate::io::json_writer::text_of;
use crate::memory;
use serde::Serialize;

/// What a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Reference against reference: what a perfect set of images would get. The mean over several splits.
    Null,
    /// The standard deviation over these splits: a difference of a few of it is none.
    NullSpread,
    /// The teacher with its reference solver.
    Teacher,
    /// What the caller asked for.
    Given,
}

/// One set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Against the teacher's images of the same noises.
    pub paired: Option<Paired>,
    /// RMSE of the state that each step lands on, against the teacher's at that timestep.
    pub steps: Vec<f64>,
    /// Against the reference's images.
    pub distribution: Option<Distribution>,
    /// Share of the images that the classifier takes for the class that they were asked for; of the null, for that of their label.
    pub accuracy: Option<f64>,
}

/// What distributions are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The dataset's images.
    Data,
    /// The teacher's images of other noises.
    Teacher,
}

/// A whole report. Its numbers are comparable where all of this is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The rows: null, its spread, the teacher, then the caller's in their order.
    pub rows: Vec<Row>,
    /// Noises that every model was given.
    pub count: usize,
    /// Their seed.
    pub seed: u64,
    /// Images of each set that distributions are compared by.
    pub compared: usize,
    /// What they are compared with.
    pub against: Against,
    /// Steps of the teacher's reference solver.
    pub reference_steps: usize,
}

/// The names of the columns, in the order of [`Row::numbers`].
pub const COLUMNS: [&str; 12] = [
    "rmse",
    "rmse_median",
    "rmse_p99",
    "rmse_trimmed",
    "psnr",
    "sliced_wasserstein",
    "kernel_distance",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
];
/// The same in the text, and digits behind the point.
const HEADS: [(&str, usize); 12] = [
    ("RMSE", 4),
    ("median", 4),
    ("p99", 4),
    ("trimmed", 4),
    ("PSNR", 2),
    ("SWD", 4),
    ("kernel", 5),
    ("precision", 3),
    ("recall", 3),
    ("density", 3),
    ("coverage", 3),
    ("accuracy", 3),
];

/// Bytes of the longest text.
const LONGEST: usize = 1 << 24;

impl Row {
    /// Its numbers in the order of [`COLUMNS`]; NaN for what was not measured.
    pub fn numbers(&self) -> [f64; 12] {
        let paired = self.paired.map_or([f64::NAN; 5], |p| [p.rmse, p.median, p.p99, p.trimmed, p.psnr]);
        let distribution = self.distribution.map_or([f64::NAN; 6], |d| d.numbers());
        let mut numbers = [f64::NAN; 12];
        numbers[..5].copy_from_slice(&paired);
        numbers[5..11].copy_from_slice(&distribution);
        numbers[11] = self.accuracy.unwrap_or(f64::NAN);
        numbers
    }
}

/// A number of the text: `-` for what was not measured, `inf` for the PSNR of equal images.
fn cell(number: f64, digits: usize) -> String {
    if number.is_nan() { "-".to_owned() } else { format!("{number:.digits$}") }
}

/// A row of JSON.
#[derive(Serialize)]
struct JsonRow<'a> {
    name: &'a str,
    kind: Kind,
    #[serde(flatten)]
    numbers: Numbers,
    steps: &'a [f64],
}

/// The numbers by their names; what was not measured or is infinite is null.
struct Numbers([f64; 12]);

impl Serialize for Numbers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(COLUMNS.iter().zip(&self.0))
    }
}

/// The report as JSON.
#[derive(Serialize)]
struct JsonReport<'a> {
    count: usize,
    seed: u64,
    compared: usize,
    against: Against,
    reference_steps: usize,
    features: &'a str,
    rows: Vec<JsonRow<'a>>,
}

/// What the features are, for whoever would compare them with others'.
const FEATURES: &str = "random convolutional net, seed \"features\"; not FID, not KID: comparable within fewstep alone";

impl Report {
    /// One line of JSON.
    pub fn json(&self) -> Result<String> {
        let row = |row| {
            let Row { name, kind, steps, .. }: &Row = row;
            JsonRow { name, kind: *kind, numbers: Numbers(row.numbers()), steps }
        };
        let rows = memory::collect(self.rows.iter().map(row), "a report")?;
        let &Self { count, seed, compared, against, reference_steps, .. } = self;
        text_of(&JsonReport { count, seed, compared, against, reference_steps, features: FEATURES, rows }, LONGEST, "a report")
    }

    /// A table with aligned columns, and what its numbers mean.
    pub fn text(&self) -> Result<String> {
        let mut table: Vec<Vec<String>> = vec![[""].into_iter().chain(HEADS.map(|(head, _)| head)).map(str::to_owned).collect()];
        for row in &self.rows {
            memory::check()?;
            let cells = row.numbers().into_iter().zip(HEADS).map(|(number, (_, digits))| cell(number, digits));
            table.push([row.name.clone()].into_iter().chain(cells).collect());
        }
        let mut text = aligned(&table)?;
        let states: Vec<&Row> = self.rows.iter().filter(|row| !row.steps.is_empty()).collect();
        if !states.is_empty() {
            memory::append_text(&mut text, "\nRMSE of the states that steps land on\n", "a report")?;
            let steps = |row: &&Row| [row.name.clone()].into_iter().chain(row.steps.iter().map(|error| cell(*error, 4))).collect();
            memory::append_text(&mut text, &aligned(&memory::collect(states.iter().map(steps), "a report")?)?, "a report")?;
        }
        memory::append_text(&mut text, &self.legend(), "a report")?;
        Ok(text)
    }

    fn legend(&self) -> String {
        let against = match self.against {
            Against::Data => "the dataset's",
            Against::Teacher => "the teacher's of other noises",
        };
        format!(
            "\nRMSE to PSNR: {} images against the teacher's of {} DDIM steps from the same noises (seed {}).\n\
             SWD to coverage: {} images against as many of {against}; SWD of pixels, the others in features of a fixed random net.\n\
             null: reference against reference, and its spread over splits; a difference of less than 5 spreads is a tie.\n\
             Comparable within this library, at equal numbers of images alone.\n",
            self.count, self.reference_steps, self.seed, self.compared
        )
    }
}

/// Rows of cells, the first of each at the left, the others at the right of their column.
fn aligned(rows: &[Vec<String>]) -> Result<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths = memory::collect((0..columns).map(width), "a report")?;
    let mut text = String::new();
    for row in rows {
        memory::check()?;
        let cells = row.iter().zip(&widths).enumerate();
        let line: String = cells.map(|(i, (cell, width))| if i == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") }).collect();
        memory::append_text(&mut text, line.trim_end(), "a report")?;
        memory::append_text(&mut text, "\n", "a report")?;
    }
    Ok(text)
}
