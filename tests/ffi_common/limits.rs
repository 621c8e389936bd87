//! More, or fewer, of anything than a sampler was planned for, on whatever device the runtime computes: a sentence with both numbers, nothing written, and
//! the run that was under way goes on as if nothing had been asked.

use super::*;

const INVALID: i32 = 1;
const SHAPE: i32 = 2;
const STATE: i32 = 14;

/// Images of the sampler.
const BATCH: usize = 3;
/// Pixels of an image of the TINY model.
const IMAGE: usize = 8 * 8;
/// More than any batch here.
const MANY: usize = 1 << 20;
/// The labels, indices and noise that fit.
const FIT: Row = Row { name: "all fit", labels: BATCH, indices: BATCH, noise: BATCH * IMAGE, first: 0, status: 0, numbers: ["", ""] };

struct Row {
    name: &'static str,
    labels: usize,
    indices: usize,
    noise: usize,
    first: u32,
    status: i32,
    /// What the sentence names: what was allowed, what was found.
    numbers: [&'static str; 2],
}

const ROWS: [Row; 13] = [
    Row { name: "a label more", labels: 4, status: SHAPE, numbers: ["3", "4"], ..FIT },
    Row { name: "a label fewer", labels: 2, status: SHAPE, numbers: ["3", "2"], ..FIT },
    Row { name: "no labels", labels: 0, status: SHAPE, numbers: ["3", "0"], ..FIT },
    Row { name: "many labels", labels: MANY, status: SHAPE, numbers: ["3", "1048576"], ..FIT },
    Row { name: "labels beyond memory", labels: usize::MAX / 2, status: INVALID, numbers: ["memory", "9223372036854775807"], ..FIT },
    Row { name: "an index more", indices: 4, status: SHAPE, numbers: ["3", "4"], ..FIT },
    Row { name: "an index fewer", indices: 2, status: SHAPE, numbers: ["3", "2"], ..FIT },
    Row { name: "many indices", indices: MANY, status: SHAPE, numbers: ["3", "1048576"], ..FIT },
    Row { name: "an image of noise more", noise: 4 * IMAGE, status: SHAPE, numbers: ["192", "256"], ..FIT },
    Row { name: "an element of noise more", noise: 3 * IMAGE + 1, status: SHAPE, numbers: ["192", "193"], ..FIT },
    Row { name: "an element of noise fewer", noise: 3 * IMAGE - 1, status: SHAPE, numbers: ["192", "191"], ..FIT },
    Row { name: "much noise", noise: MANY, status: SHAPE, numbers: ["192", "1048576"], ..FIT },
    Row { name: "beyond the last index", indices: 0, first: u32::MAX - 2, status: INVALID, numbers: ["3", "4294967293"], ..FIT },
];

/// What the rows point to: as much as the largest of them says it has.
struct Given {
    labels: Vec<i32>,
    indices: Vec<u32>,
    noise: Vec<f32>,
}

impl Given {
    fn new() -> Self {
        Self { labels: (0..MANY).map(|i| (i % 10) as i32).collect(), indices: (0..MANY as u32).collect(), noise: (0..MANY).map(|i| (i as f32).sin()).collect() }
    }

    fn begin(&self, api: &Api, sampler: *mut fewstep_sampler, row: &Row) -> i32 {
        let classes = fewstep_conditioning { kind: FEWSTEP_CONDITIONING_CLASS_LABELS, reserved: 0, data: self.labels.as_ptr().cast(), count: row.labels };
        // SAFETY: plain data that init fills; valid pointers. The count beyond memory has no array behind it: it is refused before one is looked at.
        unsafe {
            let mut o: fewstep_begin_options = std::mem::zeroed();
            api.ok((api.fewstep_begin_options_init)(&mut o, size_of_val(&o)));
            (o.seed, o.first_index) = (11, row.first);
            (o.conditionings, o.conditioning_count, o.conditioning_stride) = (&classes, 1, size_of::<fewstep_conditioning>());
            (o.indices, o.index_count) = (self.indices.as_ptr(), row.indices);
            (o.noise, o.noise_count) = (self.noise.as_ptr(), row.noise);
            (api.fewstep_sampler_begin)(sampler, &o)
        }
    }
}

fn finish(api: &Api, sampler: *mut fewstep_sampler) -> Vec<f32> {
    let mut out = vec![7f32; BATCH * IMAGE];
    // SAFETY: valid pointers.
    unsafe {
        api.ok((api.fewstep_sampler_run)(sampler, None, null_mut(), null()));
        let found = (api.fewstep_sampler_read)(sampler, out.as_mut_ptr(), out.len() - 1);
        api.fails("a buffer too small", found, SHAPE, "capacity is 191; the images have 192 elements");
        assert!(out.iter().all(|v| *v == 7.0), "outputs are written only on success");
        api.ok((api.fewstep_sampler_read)(sampler, out.as_mut_ptr(), out.len()));
    }
    out
}

/// Panics unless every row is refused, and the sampler goes on.
pub fn check(api: &Api, runtime: *mut fewstep_runtime) {
    let (given, model, mut sampler) = (Given::new(), api.model(runtime, 3), null_mut());
    // SAFETY: valid pointers; each handle is destroyed once.
    unsafe {
        api.ok((api.fewstep_sampler_create)(runtime, model, &api.sampler_options(2, BATCH as u32), &mut sampler));
        let refused = |row: &Row| row.numbers.iter().for_each(|n| api.fails(row.name, given.begin(api, sampler, row), row.status, n));
        let mut done = 5;
        for row in &ROWS {
            refused(row);
            api.fails(row.name, (api.fewstep_sampler_step)(sampler, -1, &mut done), STATE, "begin");
        }
        api.ok(given.begin(api, sampler, &FIT));
        let expected = finish(api, sampler);
        for row in &ROWS {
            api.ok(given.begin(api, sampler, &FIT));
            api.ok((api.fewstep_sampler_step)(sampler, -1, &mut done));
            assert_eq!(done, 0);
            refused(row);
            assert!(finish(api, sampler) == expected, "{}: the run under way was touched", row.name);
        }
        api.ok((api.fewstep_sampler_destroy)(sampler));
        api.ok((api.fewstep_model_destroy)(model));
    }
}
