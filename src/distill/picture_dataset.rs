//! A dataset of the pictures in a folder.

use super::dataset::Dataset;
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::io::picture_folder::{Classes, Files, Listing, Skipped};
use crate::io::resample::{Fit, resample};
use crate::io::{Picture, file};
use crate::memory;
use crate::tensor::{DType, Tensor};
use std::path::Path;

/// So many reasons are named where no picture is left.
const SHOWN: usize = 3;

/// What is made of the pictures.
#[derive(Clone, Debug)]
pub struct PictureOptions {
    /// Whether folders are classes.
    pub classes: Classes,
    /// [H, W] of the images; `None` for those of the first picture.
    pub size: Option<[usize; 2]>,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// How pictures of another shape fit.
    pub fit: Fit,
    /// A copy of each image, mirrored left to right, behind all of them.
    pub mirror: bool,
    /// Value of an image = value of the picture, 0 to 255, times `scale`, plus `shift`.
    pub scale: f32,
    /// See `scale`.
    pub shift: f32,
    /// Images of each class (or of the folder, where there are none) at most, without the mirrored ones: those whose names come first.
    pub max_images: usize,
    /// Bytes of images and labels at most.
    pub max_bytes: u64,
    /// Pixels of a picture at most; one with more is left out.
    pub max_pixels: u64,
    /// Bytes of a file at most; one with more is left out.
    pub max_file_bytes: u64,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self {
            classes: Classes::Auto,
            size: None,
            channels: 3,
            fit: Fit::Crop,
            mirror: false,
            scale: 1.0 / 127.5,
            shift: -1.0,
            max_images: usize::MAX,
            max_bytes: 4 << 30,
            max_pixels: 64 << 20,
            max_file_bytes: 256 << 20,
        }
    }
}

/// A dataset, and what became of the folder.
#[derive(Debug)]
pub struct PictureDataset {
    /// Images in the order of their classes and names; labels where there are classes.
    pub dataset: Dataset,
    /// The classes' names, by label; what is not UTF-8 of them is replaced.
    pub classes: Vec<String>,
    /// What was left out.
    pub skipped: Skipped,
}

/// Opens the pictures of a folder. `progress` hears of files done and of all of them after each, and may stop it.
pub fn open(root: &Path, options: &PictureOptions, progress: &mut dyn FnMut(usize, usize) -> Result<()>, stop: Stop) -> Result<PictureDataset> {
    let Listing { files, classes, mut skipped } = Listing::new(root, options.classes, stop)?;
    let total = files.iter().map(|f| f.names.len().min(options.max_images)).sum();
    let mut images = Images { options, most: total, tensor: None, labels: vec![] };
    let (mut done, all) = (0, files.iter().map(|f| f.names.len()).sum());
    for (label, Files { folder, names }) in files.iter().enumerate() {
        let start = images.labels.len();
        for name in names {
            stop.check()?;
            memory::check()?;
            if images.labels.len() - start < options.max_images {
                let path = folder.join(name);
                match read(&path, options) {
                    Ok(picture) => images.add(&picture, label as i32)?,
                    Err(error) => skipped.add(&path, error)?,
                }
            }
            done += 1;
            progress(done, all)?;
        }
    }
    let names = files.iter().filter(|_| classes).map(|f| f.folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let names = memory::collect(names, "the classes' names")?;
    match images.finish(classes)? {
        Some(dataset) => Ok(PictureDataset { dataset, classes: names, skipped }),
        None => Err(nothing(root, &skipped)),
    }
}

fn read(path: &Path, options: &PictureOptions) -> Result<Picture> {
    let max = options.max_file_bytes;
    let bytes = file::read_at_most(path, max, |len| format!("a file of {len} bytes; at most {max} are allowed (max_file_bytes)"))?;
    Picture::decode(bytes, options.max_pixels)
}

fn nothing(root: &Path, skipped: &Skipped) -> Error {
    let found = skipped.listed.iter().take(SHOWN).map(|skip| format!("; {}: {}", skip.path, skip.error.message)).collect::<String>();
    let more = if skipped.count > SHOWN as u64 { format!("; and {} more", skipped.count - SHOWN as u64) } else { String::new() };
    Error::not_found(format!("{}: no picture in it that could be read{found}{more}", root.display()))
}

/// The images so far.
struct Images<'a> {
    options: &'a PictureOptions,
    /// Images that there can be, without the mirrored ones.
    most: usize,
    /// [most or twice as many, H, W, C], made with the first picture.
    tensor: Option<Tensor>,
    /// One for each image.
    labels: Vec<i32>,
}

impl Images<'_> {
    fn copies(&self) -> usize {
        1 + usize::from(self.options.mirror)
    }

    fn add(&mut self, picture: &Picture, label: i32) -> Result<()> {
        if self.tensor.is_none() {
            self.tensor = Some(self.reserve(self.options.size.unwrap_or([picture.height, picture.width]))?);
        }
        let Some(tensor) = &mut self.tensor else { return Err(Error::internal("no place for images")) };
        let [_, h, w, c] = *tensor.shape() else { return Err(Error::internal("images without a shape")) };
        let out = &mut tensor.as_mut_slice::<f32>()?[self.labels.len() * h * w * c..][..h * w * c];
        let (from, fit) = ([picture.height, picture.width], self.options.fit);
        match c {
            1 => resample::<1>(from, [h, w], fit, |y, row| picture.row::<1>(y, row), out)?,
            _ => resample::<3>(from, [h, w], fit, |y, row| picture.row::<3>(y, row), out)?,
        }
        out.iter_mut().for_each(|v| *v = *v * self.options.scale + self.options.shift);
        memory::push(&mut self.labels, label, "labels")
    }

    /// Zeros for all images that there can be: the system gives memory to what is written to.
    fn reserve(&self, [h, w]: [usize; 2]) -> Result<Tensor> {
        let (c, max) = (self.options.channels, self.options.max_bytes);
        let count = self.most.checked_mul(self.copies());
        let bytes = [h, w, c, 4].iter().try_fold(count.unwrap_or(usize::MAX), |n, factor| n.checked_mul(*factor));
        match (count, bytes) {
            (Some(count), Some(bytes)) if bytes as u64 <= max => Tensor::zeros(DType::F32, &[count, h, w, c]),
            _ => Err(Error::out_of_memory(format!(
                "{} images of {h} x {w} (height, width), {} copies of each, {c} channels: {} bytes; at most {max} are allowed (max_bytes): take smaller \
                 images, or fewer (max_images), or allow more",
                self.most,
                self.copies(),
                bytes.map_or("countless".to_string(), |b| b.to_string())
            ))),
        }
    }

    /// The dataset; `None` where there is no image.
    fn finish(mut self, classes: bool) -> Result<Option<Dataset>> {
        let (mirror, count) = (self.options.mirror, self.labels.len());
        let Some(mut tensor) = self.tensor.take() else { return Ok(None) };
        if mirror {
            mirror_all(&mut tensor, count)?;
            memory::reserve(&mut self.labels, count, "labels")?;
            self.labels.extend_from_within(..);
        }
        tensor.truncate(self.labels.len());
        let labels = if classes { Some(Tensor::from_slice(&[self.labels.len()], &self.labels)?) } else { None };
        Dataset::new(tensor, labels).map(Some)
    }
}

/// Writes each of the first `count` images [H,W,C] a second time behind them, its columns in the other order.
fn mirror_all(images: &mut Tensor, count: usize) -> Result<()> {
    let [_, h, w, c] = *images.shape() else { return Err(Error::internal("images without a shape")) };
    let (from, to) = images.as_mut_slice::<f32>()?.split_at_mut(count * h * w * c);
    for (from, to) in from.chunks_exact(w * c).zip(to.chunks_exact_mut(w * c)) {
        for (from, to) in from.chunks_exact(c).zip(to.chunks_exact_mut(c).rev()) {
            to.copy_from_slice(from);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "picture_dataset_tests.rs"]
mod tests;
