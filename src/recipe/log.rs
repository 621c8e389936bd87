//! What a run tells of itself: metrics.jsonl, which is its memory too, TensorBoard's events, and a chart.

use super::folder::{Folder, is_there};
use super::stage::Recipe;
use crate::error::{Error, Result};
use crate::io::chart::{self, Curve, Panel};
use crate::io::events::{Event, EventWriter};
use crate::io::{file, json, json_writer};
use crate::memory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const METRICS: &str = "metrics.jsonl";
const CHART: &str = "progress.svg";
/// A longer file is not read again: three hundred thousand lines.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of a line: 64 losses of long names.
const MOST_LINE: usize = 64 << 10;
/// Points of a curve; one with more loses every second one.
const MOST_POINTS: usize = 2000;

/// A line of the metrics: what steps did, or what the student was worth after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the stage, from 1.
    pub stage: usize,
    /// Its name.
    pub name: String,
    /// Steps of the stage that are done.
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// Mean loss since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The same of each term and feature, by name, without their factors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub losses: BTreeMap<String, f64>,
    /// Of the last step, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Images that were trained on in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Error of held-out noises: RMSE of the images against the teacher's trajectories; or the loss of held-out draws, where the stage has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// The same of the state after each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out_states: Vec<f64>,
    /// RMSE of as many noises that training sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<f64>,
}

/// Points of a curve, not too many.
#[derive(Default)]
struct Points {
    points: Vec<(u64, f64)>,
    /// How many are left out between two.
    skipped: usize,
    since: usize,
}

impl Points {
    fn add(&mut self, step: u64, value: Option<f64>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        if self.points.len() == MOST_POINTS {
            let mut number = 0;
            self.points.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.skipped = 2 * self.skipped + 1;
        }
        self.since = if self.since >= self.skipped { 0 } else { self.since + 1 };
        if self.since == 0 { memory::push(&mut self.points, (step, value), "a curve") } else { Ok(()) }
    }
}

/// The log of a run that has a folder.
pub struct Log<'a> {
    folder: Folder<'a>,
    recipe: &'a Recipe,
    metrics: File,
    events: EventWriter,
    curves: [Points; 3],
    /// Held-out errors of the stage that was opened.
    errors: Vec<f64>,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl<'a> Log<'a> {
    /// Goes on with the log of a stage after `step`, or from its start: what was written later belongs to steps that are done again, and goes.
    pub fn open(folder: Folder<'a>, recipe: &'a Recipe, stage: usize, step: Option<u64>) -> Result<Self> {
        let path = folder.file(METRICS);
        let (kept, text) = if is_there(&path)? { kept(&path, (stage + 1, step))? } else { (vec![], String::new()) };
        file::write_bytes_atomic(&path, text.as_bytes())?;
        let metrics = OpenOptions::new().append(true).open(&path).map_err(|e| Error::from_io(&path, &e))?;
        // TensorBoard forgets what other files have from the session's first step on.
        let events = EventWriter::create(folder.path(), now(), recipe.steps_before(stage).saturating_add(step.unwrap_or(0)).saturating_add(1))?;
        let mut this = Self { folder, recipe, metrics, events, curves: Default::default(), errors: vec![] };
        for line in &kept {
            this.remember(line)?;
            if line.stage == stage + 1 {
                memory::extend(&mut this.errors, line.held_out, "errors")?;
            }
        }
        Ok(this)
    }

    /// Held-out errors of the stage that were there when the log was opened, in their order.
    pub fn take_errors(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.errors)
    }

    /// Steps of the run at a line.
    fn total(&self, line: &Line) -> u64 {
        let before = line.stage.saturating_sub(1).min(self.recipe.stages.len());
        self.recipe.steps_before(before).saturating_add(line.step)
    }

    fn remember(&mut self, line: &Line) -> Result<()> {
        let step = self.total(line);
        self.curves.iter_mut().zip([line.loss, line.held_out, line.training]).try_for_each(|(curve, value)| curve.add(step, value))
    }

    /// Writes a line, its numbers as events.
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let path = self.folder.file(METRICS);
        let text = json_writer::text_of(line, MOST_LINE, METRICS)?;
        let written = self.metrics.write_all(text.as_bytes()).and_then(|()| self.metrics.write_all(b"\n"));
        written.map_err(|e| Error::from_io(&path, &e))?;
        let step = self.total(line);
        let numbers = [
            ("loss", line.loss),
            ("grad_norm", line.grad_norm),
            ("learning_rate", line.learning_rate),
            ("samples_per_second", line.samples_per_second),
            ("error/held_out", line.held_out),
            ("error/training", line.training),
        ];
        for (tag, value) in numbers.into_iter().filter_map(|(tag, value)| Some((tag, value?))) {
            self.events.write(line.time, step, Event::Scalar(tag, value as f32))?;
        }
        for (name, value) in &line.losses {
            self.events.write(line.time, step, Event::Scalar(&format!("losses/{name}"), *value as f32))?;
        }
        for (i, value) in line.held_out_states.iter().enumerate() {
            self.events.write(line.time, step, Event::Scalar(&format!("error/step_{}", i + 1), *value as f32))?;
        }
        self.remember(line)
    }

    /// A picture as an event.
    pub fn picture(&mut self, line: &Line, [height, width]: [usize; 2], png: &[u8]) -> Result<()> {
        let step = self.total(line);
        self.events.write(line.time, step, Event::Picture("samples", [height, width], 3, png))
    }

    /// Draws the chart anew.
    pub fn draw(&self) -> Result<()> {
        let [loss, held_out, training] = &self.curves;
        let losses = [Curve { name: "loss", points: &loss.points }];
        let errors = [Curve { name: "held-out noises", points: &held_out.points }, Curve { name: "training noises", points: &training.points }];
        let panels = [Panel { title: "loss", curves: &losses }, Panel { title: "error", curves: &errors }];
        file::write_bytes_atomic(&self.folder.file(CHART), chart::svg(&panels)?.as_bytes())
    }
}

/// The lines up to a step of a stage, or to its start, and their text. A last line that is torn is none.
fn kept(path: &std::path::Path, (stage, step): (usize, Option<u64>)) -> Result<(Vec<Line>, String)> {
    let text = file::read_text(path, MOST_BYTES)?;
    let (mut lines, mut end) = (vec![], 0);
    for (i, row) in text.split_inclusive('\n').enumerate() {
        let (last, read) = (end + row.len() == text.len(), json::parse_record::<Line>(row, METRICS));
        if last && (read.is_err() || !row.ends_with('\n')) {
            break;
        }
        let line = read.map_err(|e| Error::corrupt(format!("{}: line {}: {}", path.display(), i + 1, e.message)))?;
        let before = line.stage < stage || (line.stage == stage && step.is_some_and(|step| line.step <= step));
        if !before {
            break;
        }
        end += row.len();
        memory::push(&mut lines, line, "metrics")?;
    }
    let mut kept = memory::text_with_capacity(end, "metrics")?;
    kept.push_str(&text[..end]);
    Ok((lines, kept))
}
