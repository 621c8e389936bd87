//! Data from outside, as a C program brings it: folders of pictures, arrays in files, a callback that fills batches. What comes in is what trains.

use crate::ffi_common::{Api, c, scratch, text_of};
use fewstep::ffi::callback::*;
use fewstep::ffi::conditioning::*;
use fewstep::ffi::dataset::*;
use fewstep::ffi::dataset_fill::*;
use fewstep::ffi::dataset_folder::*;
use fewstep::ffi::runtime::fewstep_runtime;
use fewstep::ffi::trainer::fewstep_step_report;
use fewstep::ffi::trainer_options::*;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const NOT_FOUND: i32 = 4;
const OUT_OF_MEMORY: i32 = 8;
const CANCELLED: i32 = 12;
const NUMERIC: i32 = 13;

const IMAGES: usize = 6;
const IMAGE: usize = 64;

fn pixel(i: usize) -> u8 {
    (i * 37 + i / 64 * 11) as u8
}

fn label(image: usize) -> i32 {
    image as i32 / 3
}

fn png(path: &Path, [width, height]: [u32; 2], pixels: &[u8]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).expect("a file"), width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().expect("a header").write_image_data(pixels).expect("pixels");
}

/// Six images of 8x8 in two classes, and three things that are none.
fn folder(name: &str) -> PathBuf {
    let root = scratch(name);
    for class in ["cats", "dogs"] {
        std::fs::create_dir(root.join(class)).expect("a folder");
    }
    for i in 0..IMAGES {
        let pixels: Vec<u8> = (i * IMAGE..(i + 1) * IMAGE).map(pixel).collect();
        png(&root.join(["cats", "dogs"][i / 3]).join(format!("{i}.png")), [8, 8], &pixels);
    }
    std::fs::write(root.join("dogs/notes.txt"), "no picture").expect("a file");
    std::fs::write(root.join("README"), "no class").expect("a file");
    std::fs::write(root.join("cats/cut.png"), &std::fs::read(root.join("cats/0.png")).expect("a file")[..40]).expect("a file");
    root
}

struct Case {
    api: Api,
    runtime: *mut fewstep_runtime,
}

impl Drop for Case {
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        unsafe { (self.api.fewstep_runtime_destroy)(self.runtime) };
    }
}

impl Case {
    fn new() -> Self {
        let api = Api::load();
        Self { runtime: api.runtime(1), api }
    }

    fn folder_options(&self) -> fewstep_folder_options {
        // SAFETY: plain data that init fills, and a valid pointer.
        unsafe {
            let mut o: fewstep_folder_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_folder_options_init)(&mut o, size_of_val(&o)));
            o.channels = 1;
            o
        }
    }

    fn open(&self, path: &Path, o: &fewstep_folder_options, progress: fewstep_progress_callback, user: *mut c_void) -> (i32, *mut fewstep_dataset) {
        let mut out = null_mut();
        let path = c(&path.to_string_lossy());
        // SAFETY: valid pointers.
        let status = unsafe { (self.api.fewstep_dataset_open_folder)(self.runtime, path.as_ptr(), o, progress, user, &mut out) };
        assert!((status == 0) != out.is_null());
        (status, out)
    }

    fn opened(&self, path: &Path, o: &fewstep_folder_options) -> *mut fewstep_dataset {
        let (status, out) = self.open(path, o, None, null_mut());
        self.api.ok(status);
        out
    }

    fn info(&self, dataset: *const fewstep_dataset) -> fewstep_dataset_info {
        // SAFETY: plain data that the library fills; valid pointers.
        unsafe {
            let mut info: fewstep_dataset_info = std::mem::zeroed();
            info.struct_size = size_of_val(&info) as u32;
            self.api.ok((self.api.fewstep_dataset_get_info)(dataset, &mut info));
            info
        }
    }

    /// The same images and labels as arrays.
    fn arrays(&self) -> *mut fewstep_dataset {
        let (pixels, labels): (Vec<u8>, Vec<i32>) = ((0..IMAGES * IMAGE).map(pixel).collect(), (0..IMAGES).map(label).collect());
        let mut out = null_mut();
        // SAFETY: plain data that init fills; valid pointers.
        unsafe {
            let mut o: fewstep_dataset_options = std::mem::zeroed();
            self.api.ok((self.api.fewstep_dataset_options_init)(&mut o, size_of_val(&o)));
            (o.channels, o.height, o.width, o.count, o.data, o.data_size) = (1, 8, 8, IMAGES, pixels.as_ptr().cast(), pixels.len());
            (o.labels, o.label_count) = (labels.as_ptr(), labels.len());
            self.api.ok((self.api.fewstep_dataset_create)(self.runtime, &o, &mut out));
        }
        out
    }

    /// The loss of a model on a dataset, which is then destroyed: equal bits where the images and labels are.
    fn loss(&self, dataset: *mut fewstep_dataset) -> u32 {
        let api = &self.api;
        let term = fewstep_term {
            objective: FEWSTEP_OBJECTIVE_DENOISE,
            step_weight: FEWSTEP_WEIGHT_SNR,
            norm: FEWSTEP_NORM_L2,
            weight: 1.0,
            huber_delta: 0.0,
            linear_fit_steps: 0,
        };
        let options = fewstep_trainer_options { batch: 16, ..api.trainer_options(&term) };
        let (model, mut trainer) = (api.model(self.runtime, 1), null_mut());
        // SAFETY: plain data that the library fills; valid pointers, each handle destroyed once.
        unsafe {
            let mut report: fewstep_step_report = std::mem::zeroed();
            report.struct_size = size_of_val(&report) as u32;
            api.ok((api.fewstep_trainer_create)(self.runtime, model, null(), dataset, &options, &mut trainer));
            api.ok((api.fewstep_trainer_evaluate)(trainer, 5, &mut report));
            api.ok((api.fewstep_trainer_destroy)(trainer));
            api.ok((api.fewstep_dataset_destroy)(dataset));
            api.ok((api.fewstep_model_destroy)(model));
            report.loss.to_bits()
        }
    }
}

#[test]
fn a_folder_of_pictures_trains_as_the_same_arrays_do() {
    let case = Case::new();
    let (api, root) = (&case.api, folder("pictures"));
    let data = case.opened(&root, &case.folder_options());
    let info = case.info(data);
    assert_eq!((info.count, info.has_labels, info.classes, info.channels, info.height, info.width), (6, 1, 2, 1, 8, 8));
    assert_eq!((info.skipped, info.skipped_listed, info.class_names), (3, 3, 2));
    let mut left_out = vec![];
    // SAFETY: plain data that the library fills; valid pointers; the texts live as long as the dataset.
    unsafe {
        let mut row: fewstep_skipped = std::mem::zeroed();
        row.struct_size = size_of_val(&row) as u32;
        for i in 0..3 {
            api.ok((api.fewstep_dataset_skipped)(data, i, &mut row));
            left_out.push((text_of(row.path), row.status, text_of(row.reason)));
        }
        api.fails("beyond", (api.fewstep_dataset_skipped)(data, 3, &mut row), INVALID, "3 are listed");
        let mut name = null();
        for (label, expected) in ["cats", "dogs"].iter().enumerate() {
            api.ok((api.fewstep_dataset_class_name)(data, label, &mut name));
            assert_eq!(text_of(name), *expected);
        }
        api.fails("no class", (api.fewstep_dataset_class_name)(data, 2, &mut name), INVALID, "2 classes");
    }
    let expected = [("README", 3, "beside the folders"), ("cats/cut.png", 6, "damaged"), ("dogs/notes.txt", 3, "neither a PNG nor a JPEG")];
    for ((path, status, reason), (name, code, words)) in left_out.iter().zip(expected) {
        assert!(path.ends_with(name) && *status == code && reason.contains(words), "{path}: {status} {reason}");
    }
    assert_eq!(case.loss(data), case.loss(case.arrays()));
    // Every image is mirrored: other images.
    let mirrored = case.opened(&root, &fewstep_folder_options { mirror: 1, ..case.folder_options() });
    assert_eq!(case.info(mirrored).count, 12);
    assert_ne!(case.loss(mirrored), case.loss(case.arrays()));
    std::fs::remove_dir_all(root).expect("a folder");
}

unsafe extern "C" fn stop_at_two(user: *mut c_void, progress: *const fewstep_progress) -> i32 {
    // SAFETY: the library's struct; `user` is the test's counter.
    let (progress, calls) = unsafe { (&*progress, &mut *user.cast::<u64>()) };
    assert!(progress.phase == FEWSTEP_PHASE_OPEN && progress.total == 8 && progress.done == *calls + 1);
    *calls = progress.done;
    i32::from(progress.done == 2)
}

#[test]
fn folders_are_refused_with_a_sentence() {
    let case = Case::new();
    let (api, root) = (&case.api, folder("pictures-bad"));
    let row = |name: &str, status: i32, words: &str, change: &dyn Fn(&mut fewstep_folder_options)| {
        let mut o = case.folder_options();
        change(&mut o);
        api.fails(name, case.open(&root, &o, None, null_mut()).0, status, words);
    };
    row("channels", INVALID, "channels is 4", &|o| o.channels = 4);
    row("half a size", INVALID, "height is 8 and width is 0", &|o| o.height = 8);
    row("folders", INVALID, "folders is 0", &|o| o.folders = 0);
    row("fit", INVALID, "fit is 3", &|o| o.fit = 3);
    row("mirror", INVALID, "mirror is 2", &|o| o.mirror = 2);
    row("reserved", INVALID, "reserved", &|o| o.reserved = 1);
    row("scale", NUMERIC, "scale", &|o| o.scale = f32::NAN);
    row("no pixels", INVALID, "max_pixels", &|o| o.max_pixels = 0);
    row("small pictures", NOT_FOUND, "max_pixels", &|o| o.max_pixels = 63);
    row("small files", NOT_FOUND, "max_file_bytes", &|o| o.max_file_bytes = 20);
    row("memory", OUT_OF_MEMORY, "max_bytes", &|o| o.max_bytes = 1000);
    row("huge images", OUT_OF_MEMORY, "bytes", &|o| (o.height, o.width, o.max_bytes) = (u32::MAX, u32::MAX, u64::MAX));
    row("flat", NOT_FOUND, "only files are read", &|o| o.folders = FEWSTEP_FOLDERS_IGNORED);
    let mut calls = 0u64;
    let found = case.open(&root, &case.folder_options(), Some(stop_at_two), (&raw mut calls).cast()).0;
    api.fails("callback", found, CANCELLED, "callback");
    assert_eq!(calls, 2);
    let mut token = null_mut();
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_cancel_token_create)(&mut token));
        api.ok((api.fewstep_cancel_token_cancel)(token));
        row("token", CANCELLED, "token", &|o| o.cancel = token);
        api.ok((api.fewstep_cancel_token_destroy)(token));
    }
    api.fails("no folder", case.open(&root.join("none"), &case.folder_options(), None, null_mut()).0, NOT_FOUND, "none");
    std::fs::copy(root.join("cats/0.png"), root.join("0.png")).expect("a file");
    api.fails("both", case.open(&root, &case.folder_options(), None, null_mut()).0, INVALID, "say whether the folders are classes");
    std::fs::remove_dir_all(root).expect("a folder");
}

/// What a fill callback does beside its work.
#[derive(Default)]
struct Host {
    batches: Vec<(u64, u32)>,
    stop_at: Option<u64>,
    forget_label: bool,
    forget_pixel: bool,
    floats: bool,
}

unsafe extern "C" fn fill(user: *mut c_void, batch: *const fewstep_fill) -> i32 {
    // SAFETY: the library's struct; `user` is the test's.
    let (batch, host) = unsafe { (&*batch, &mut *user.cast::<Host>()) };
    host.batches.push((batch.first, batch.count));
    if host.stop_at == Some(batch.first) {
        return 7;
    }
    let (first, count) = (batch.first as usize, batch.count as usize);
    assert_eq!((batch.images_size, batch.condition_count), (count * IMAGE * if host.floats { 4 } else { 1 }, 1));
    for i in 0..count * IMAGE - usize::from(host.forget_pixel) {
        let value = pixel(first * IMAGE + i);
        // SAFETY: images has images_size bytes.
        unsafe { if host.floats { batch.images.cast::<f32>().add(i).write(value.into()) } else { batch.images.cast::<u8>().add(i).write(value) } }
    }
    for i in 0..count - usize::from(host.forget_label) {
        // SAFETY: one place, for a label of each image.
        unsafe { (*batch.conditions).cast::<i32>().add(i).write(label(first + i)) };
    }
    0
}

#[test]
fn a_callback_fills_what_arrays_would_hold() {
    let case = Case::new();
    let api = &case.api;
    let labels = fewstep_condition { struct_size: 0, kind: FEWSTEP_CONDITIONING_CLASS_LABELS, classes: 2, length: 0, width: 0, channels: 0 };
    let create = |host: &mut Host, change: &dyn Fn(&mut fewstep_fill_options)| {
        let mut out = null_mut();
        // SAFETY: plain data that init fills; valid pointers.
        let status = unsafe {
            let mut o: fewstep_fill_options = std::mem::zeroed();
            api.ok((api.fewstep_fill_options_init)(&mut o, size_of_val(&o)));
            (o.channels, o.height, o.width, o.count, o.batch, o.conditions, o.condition_count) = (1, 8, 8, IMAGES, 4, &labels, 1);
            change(&mut o);
            (api.fewstep_dataset_create_filled)(case.runtime, &o, Some(fill), std::ptr::from_mut(host).cast(), &mut out)
        };
        assert!((status == 0) != out.is_null());
        (status, out)
    };
    for floats in [false, true] {
        let mut host = Host { floats, ..Default::default() };
        let (status, data) = create(&mut host, &|o| o.dtype = if floats { FEWSTEP_DTYPE_F32 } else { FEWSTEP_DTYPE_U8 });
        api.ok(status);
        assert_eq!(host.batches, [(0, 4), (4, 2)]);
        assert_eq!((case.info(data).count, case.info(data).classes), (6, 2));
        assert_eq!(case.loss(data), case.loss(case.arrays()));
    }
    let row = |name: &str, status: i32, words: &str, mut host: Host, change: &dyn Fn(&mut fewstep_fill_options)| {
        api.fails(name, create(&mut host, change).0, status, words);
    };
    let float = |o: &mut fewstep_fill_options| o.dtype = FEWSTEP_DTYPE_F32;
    row("stopped", CANCELLED, "returned 7 for images 4", Host { stop_at: Some(4), ..Default::default() }, &|_| ());
    row("no label", INVALID, "-1", Host { forget_label: true, ..Default::default() }, &|_| ());
    row("no pixel", NUMERIC, "image 3", Host { forget_pixel: true, floats: true, ..Default::default() }, &float);
    row("empty", INVALID, "count", Host::default(), &|o| o.count = 0);
    row("batch", INVALID, "batch is 0", Host::default(), &|o| o.batch = 0);
    row("dtype", INVALID, "dtype", Host::default(), &|o| o.dtype = 9);
    row("overflow", SHAPE, "too large", Host::default(), &|o| (o.count, o.height, o.width) = (1 << 30, u32::MAX, u32::MAX));
    row("reserved", INVALID, "reserved", Host::default(), &|o| o.reserved = 1);
    let odd = [(0, "kind is 0"), (FEWSTEP_CONDITIONING_TOKENS, "length is 0"), (FEWSTEP_CONDITIONING_PLANES, "channels is 0")];
    for (kind, words) in odd {
        let condition = fewstep_condition { kind, width: 3, ..labels };
        row("condition", INVALID, words, Host::default(), &|o| o.conditions = &condition);
    }
    let wide = fewstep_condition { kind: FEWSTEP_CONDITIONING_TOKENS, length: u32::MAX, width: u32::MAX, ..labels };
    row("wide", SHAPE, "too large", Host::default(), &|o| o.conditions = &wide);
    let one = fewstep_condition { classes: 1, ..labels };
    row("classes", INVALID, "1", Host::default(), &|o| o.conditions = &one);
}

/// Planes come channel by channel, as everywhere in C.
#[test]
fn filled_conditions_are_checked_and_moved() {
    unsafe extern "C" fn fill(user: *mut c_void, batch: *const fewstep_fill) -> i32 {
        // SAFETY: the library's struct; `user` is the test's flag; the places are as large as the options say.
        unsafe {
            let batch = &*batch;
            let planes = *batch.conditions;
            batch.images.write_bytes(9, batch.images_size);
            (0..batch.count as usize * 2 * 4).for_each(|i| planes.cast::<f32>().add(i).write(i as f32));
            let vector = (*batch.conditions.add(1)).cast::<f32>();
            (0..batch.count as usize * 3 - usize::from(*user.cast::<bool>())).for_each(|i| vector.add(i).write(0.5));
        }
        0
    }
    let case = Case::new();
    let api = &case.api;
    let of = |kind, channels, width| fewstep_condition { struct_size: 0, kind, classes: 0, length: 0, width, channels };
    let conditions = [of(FEWSTEP_CONDITIONING_PLANES, 2, 0), of(FEWSTEP_CONDITIONING_VECTOR, 0, 3)];
    for mut forget in [false, true] {
        let mut out = null_mut();
        // SAFETY: plain data that init fills; valid pointers.
        unsafe {
            let mut o: fewstep_fill_options = std::mem::zeroed();
            api.ok((api.fewstep_fill_options_init)(&mut o, size_of_val(&o)));
            (o.channels, o.height, o.width, o.count, o.conditions, o.condition_count) = (1, 2, 2, 3, conditions.as_ptr(), 2);
            let status = (api.fewstep_dataset_create_filled)(case.runtime, &o, Some(fill), (&raw mut forget).cast(), &mut out);
            if forget {
                api.fails("a number is missing", status, NUMERIC, "vectors");
            } else {
                api.ok(status);
                assert_eq!(case.info(out).bytes, 3 * 4 * (4 + 8 + 3));
                api.ok((api.fewstep_dataset_destroy)(out));
            }
        }
    }
}

#[test]
fn npy_files_are_datasets() {
    let case = Case::new();
    let (api, dir) = (&case.api, scratch("npy-data"));
    let [images, labels] = ["x.npy", "y.npy"].map(|name| c(&dir.join(name).to_string_lossy()));
    let values: Vec<f32> = (0..IMAGES * IMAGE).map(|i| pixel(i).into()).collect();
    let classes: Vec<i32> = (0..IMAGES).map(label).collect();
    let mut out = null_mut();
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_save_npy_f32)(images.as_ptr(), values.as_ptr(), [IMAGES, 8, 8].as_ptr(), 3));
        api.ok((api.fewstep_save_npy_i32)(labels.as_ptr(), classes.as_ptr(), [IMAGES].as_ptr(), 1));
        api.ok((api.fewstep_dataset_open_npy)(case.runtime, images.as_ptr(), labels.as_ptr(), 1.0 / 127.5, -1.0, &mut out));
        assert_eq!(case.loss(out), case.loss(case.arrays()));
        out = null_mut();
        let swapped = (api.fewstep_dataset_open_npy)(case.runtime, labels.as_ptr(), images.as_ptr(), 1.0, 0.0, &mut out);
        api.fails("swapped", swapped, SHAPE, "y.npy");
        let infinite = (api.fewstep_dataset_open_npy)(case.runtime, images.as_ptr(), null(), f32::INFINITY, 0.0, &mut out);
        api.fails("scale", infinite, NUMERIC, "scale");
    }
    std::fs::remove_dir_all(dir).expect("a folder");
}

/// However little memory there is: decoders of pictures cannot be refused any, and end no process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn little_memory_is_an_answer() {
    fn limit(bytes: libc::rlim_t) {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a valid struct; only this process is limited.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    }
    fn size() -> u64 {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
        4096 * pages.split(' ').next().expect("a number").parse::<u64>().expect("a number")
    }
    // In a process of its own, which is limited, and whose allocator gives all that is freed back to the system: later calls could live on it, or on what it
    // sets aside for each thread.
    if std::env::var_os("FEWSTEP_TEST_LITTLE").is_none() {
        let child = std::process::Command::new(std::env::current_exe().expect("self"))
            .args(["--exact", "datasets::little_memory_is_an_answer", "--nocapture"])
            .envs([("FEWSTEP_TEST_LITTLE", "1"), ("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "0")])
            .output()
            .expect("child");
        return assert!(child.status.success(), "{}\n{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    }
    let (case, dir) = (Case::new(), scratch("little-memory"));
    png(&dir.join("0.png"), [700, 500], &vec![7; 700 * 500]);
    // In turn: coefficients of a whole picture, a wide row, as many components and blocks as there can be.
    let kinds = [(700, 600, &[0x22, 0x11, 0x11][..]), (8000, 20, &[0x41, 0x11, 0x11]), (400, 400, &[0x22, 0x11, 0x11, 0x22]), (500, 500, &[0x24])];
    for (i, (width, height, factors)) in kinds.iter().enumerate() {
        std::fs::write(dir.join(format!("{}.jpg", i + 1)), crate::pictures::progressive(*width, *height, factors)).expect("a file");
    }
    let options = fewstep_folder_options { height: 8, width: 8, ..case.folder_options() };
    let open = || {
        let (status, data) = case.open(&dir, &options, None, null_mut());
        // SAFETY: NULL or a handle.
        unsafe { (case.api.fewstep_dataset_destroy)(data) };
        status
    };
    case.api.ok(open());
    let (mut refused, mut opened) = (0, 0);
    for more in (0..60).map(|i| i * (512 << 10)) {
        limit(size() + more);
        let status = open();
        limit(libc::RLIM_INFINITY);
        assert!(status == 0 || status == OUT_OF_MEMORY, "{more}: {}", case.api.last_error());
        if status == 0 { opened += 1 } else { refused += 1 }
    }
    assert!(opened > 5 && refused > 5, "{opened} opened, {refused} refused");
    std::fs::remove_dir_all(dir).expect("a folder");
}
