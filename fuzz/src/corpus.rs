//! Writes the small corpus that lies in the tree: fuzz/corpus/TARGET/NAME, by the library's own writers and by others'. `fuzz/run --corpus`.

use libfuzzer_sys as _; // its library has what the coverage flags ask for
use pictures::progressive;

use fewstep::io::safetensors;
use fewstep::tensor::{DType, Tensor};
use fewstep_fuzz::files::{self, CONFIG, NUMBERS, SCHEDULER, STUDENT};
use fewstep_fuzz::trainer::Fixture;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

#[path = "../../tests/common/pictures.rs"]
mod pictures;

fn main() {
    let folder = std::env::args().nth(1).expect("the corpus's folder");
    type Inputs = Vec<(&'static str, Vec<u8>)>;
    let all: [(&str, Inputs); 12] = [
        ("json", texts(&JSON)),
        ("config", configs()),
        ("scheduler", schedulers()),
        ("safetensors", tensor_files()),
        ("model", models()),
        ("student", texts(&[("two", STUDENT), ("one", r#"{"version":1,"pairs":[[999,-1]],"teacher_substeps":1,"later":[{}]}"#)])),
        ("recipe", recipes()),
        ("checkpoint", checkpoints()),
        ("trajectories", trajectories()),
        ("zip", archives()),
        ("npz", arrays()),
        ("picture", pictures()),
    ];
    for (target, files) in all {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).expect("the corpus's folder");
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).expect("a file of the corpus");
        }
    }
}

fn recipes() -> Vec<(&'static str, Vec<u8>)> {
    let named = ["fast", "best"].map(|name| (name, fewstep::recipe::Recipe::named(name, 2).and_then(|recipe| recipe.text()).expect("a text").into_bytes()));
    let stages = texts(&[(
        "stages",
        r#"{"stages": [{"steps": 3, "terms": [{"objective": "denoise", "norm": "huber", "huber_delta": 0.5}]}, {"name": "b", "steps": 1, "teacher": "previous",
"terms": [{"objective": "progressive", "step_weight": "v"}], "features": [{"objective": "output", "student": "mid_block", "norm": "l1"}], "clip_norm": null}]}"#,
    )]);
    named.into_iter().chain(stages).collect()
}

const JSON: [(&str, &str); 5] = [
    ("values", r#"{"a": [1, -2.5e-3, 18446744073709551615, true, false, null], "b": {"c": {}, "d": []}}"#),
    ("texts", r#"["", "plain", "\"\\\/\b\f\n\r\t", "\u00e4\ud83d\ude00", "ä😀"]"#),
    ("python", "{\"x\": -Infinity, \"y\": [NaN, Infinity], \"z\": \"NaN\"}"),
    ("numbers", "[0, -0, 0.0, 1E+30, 5e-324, 1.7976931348623157e308, -9223372036854775808, 123456789012345678901234567890]"),
    ("deep", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"),
];

fn texts(rows: &[(&'static str, &str)]) -> Vec<(&'static str, Vec<u8>)> {
    rows.iter().map(|(name, text)| (*name, text.as_bytes().to_vec())).collect()
}

fn configs() -> Vec<(&'static str, Vec<u8>)> {
    let written = files::model().network.to_json().expect("a text");
    let cifar = r#"{"_class_name":"UNet2DModel","_diffusers_version":"0.1","act_fn":"silu","attention_head_dim":null,"block_out_channels":[128,256,256,256],
"center_input_sample":false,"down_block_types":["DownBlock2D","AttnDownBlock2D","DownBlock2D","DownBlock2D"],"downsample_padding":0,"flip_sin_to_cos":false,
"freq_shift":1,"in_channels":3,"layers_per_block":2,"mid_block_scale_factor":1,"norm_eps":1e-06,"norm_num_groups":32,"out_channels":3,"sample_size":[32,32],
"time_embedding_type":"positional","up_block_types":["UpBlock2D","UpBlock2D","AttnUpBlock2D","UpBlock2D"],"resnet_time_scale_shift":"scale_shift"}"#;
    texts(&[("small", CONFIG), ("written", &written), ("cifar", cifar), ("empty", "{}"), ("timestep", r#"{"class_embed_type":"timestep"}"#)])
}

fn schedulers() -> Vec<(&'static str, Vec<u8>)> {
    let dpm = r#"{"_class_name":"DPMSolverMultistepScheduler","solver_order":3,"algorithm_type":"sde-dpmsolver++","use_karras_sigmas":true,"lambda_min_clipped":-Infinity,
"final_sigmas_type":"zero","timestep_spacing":"linspace","beta_schedule":"squaredcos_cap_v2","variance_type":null,"thresholding":true}"#;
    let ddpm = r#"{"_class_name":"DDPMScheduler","clip_sample":true,"clip_sample_range":1.0,"variance_type":"fixed_large","prediction_type":"v_prediction","steps_offset":1}"#;
    let betas =
        r#"{"_class_name":"DDIMScheduler","num_train_timesteps":3,"trained_betas":[0.1,0.2,0.3],"set_alpha_to_one":false,"rescale_betas_zero_snr":true}"#;
    let euler = r#"{"_class_name":"EulerDiscreteScheduler","use_exponential_sigmas":true,"beta_schedule":"scaled_linear"}"#;
    texts(&[
        ("ddim", SCHEDULER),
        ("dpm", dpm),
        ("ddpm", ddpm),
        ("betas", betas),
        ("euler", euler),
        ("pndm", r#"{"_class_name":"PNDMScheduler","skip_prk_steps":true}"#),
    ])
}

fn tensor_files() -> Vec<(&'static str, Vec<u8>)> {
    let a = Tensor::from_slice(&[2, 2], &[1.0f32, -2.0, 0.5, 4.0]).expect("a tensor");
    let b = Tensor::from_slice(&[3], &[1i64, -2, 3]).expect("a tensor");
    let empty = Tensor::zeros(DType::U8, &[0, 3]).expect("a tensor");
    let metadata = BTreeMap::from([("format".to_string(), "p\"t".to_string())]);
    let attention = [("mid_block.attentions.0.query.weight", &a), ("mid_block.attentions.0.key.bias", &b), ("none", &empty)];
    let header =
        r#"{"d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"h":{"dtype":"BF16","shape":[],"data_offsets":[16,18],"x":[1]},"__metadata__":null}"#;
    // Twice sixteen and two zeros, by the two bytes behind the brace.
    let alone = [header.as_bytes(), &(18u16 << 4).to_le_bytes()].concat();
    vec![
        ("written", safetensors::serialize(&attention, &metadata).expect("a file")),
        ("plain", safetensors::serialize(&[("a", &a)], &BTreeMap::new()).expect("a file")),
        ("wide", files::safetensors(header.as_bytes(), &[0; 18])),
        ("alone", alone),
    ]
}

fn models() -> Vec<(&'static str, Vec<u8>)> {
    let whole = files::model_file(&files::model(), CONFIG, SCHEDULER, STUDENT).expect("a file");
    let numbers = files::quantized_file(NUMBERS).expect("a file");
    // An object is meant, a network's layer, and the student's grid.
    let crafted = [
        ("layer", NUMBERS.replace(r#"{"input":{"low":0,"high":129,"zero_point":7}}"#, "5")),
        ("norm", NUMBERS.replace("resnets.0.conv1", "resnets.0.norm1")),
        ("grid", NUMBERS.replacen("[[999,499],[499,-1]]", "[[999,-1]]", 1)),
    ];
    let crafted = crafted.map(|(name, record)| (name, files::quantized_file(&record).expect("a file")));
    [("whole", whole), ("config", CONFIG.as_bytes().to_vec()), ("numbers", numbers)].into_iter().chain(crafted).collect()
}

fn checkpoints() -> Vec<(&'static str, Vec<u8>)> {
    let whole = Fixture::new().save();
    let record = fewstep::io::TensorFile::from_bytes(&whole, "saved").expect("a checkpoint").metadata()["fewstep.training"].clone();
    vec![("whole", whole), ("record", record.into_bytes())]
}

fn trajectories() -> Vec<(&'static str, Vec<u8>)> {
    let whole = files::trajectories(files::TRAJECTORIES).expect("a file");
    vec![("whole", whole), ("record", files::TRAJECTORIES.as_bytes().to_vec())]
}

fn archive(method: CompressionMethod, large: bool, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method).large_file(large)).expect("an entry");
        writer.write_all(bytes).expect("an entry");
    }
    writer.set_comment("a comment");
    writer.finish().expect("an archive").into_inner()
}

fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let text: Vec<u8> = (0..400u32).map(|i| (i * i / 7) as u8).collect();
    let entries = [("a", text), ("bb", vec![0; 700]), ("c", vec![])];
    vec![
        ("stored", archive(CompressionMethod::Stored, false, &entries)),
        ("deflated", archive(CompressionMethod::Deflated, false, &entries)),
        ("large", archive(CompressionMethod::Deflated, true, &entries)),
        ("plain", files::stored("a", b"data")),
    ]
}

fn arrays() -> Vec<(&'static str, Vec<u8>)> {
    let floats = files::npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", &[0; 24]);
    let fortran = files::npy("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 2, 2), }\n", &[1; 16]);
    let labels = files::npy("{'descr': '<i8', 'fortran_order': False, 'shape': (3, 1), }\n", &[0; 24]);
    let bools = files::npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", &[1]);
    let double = files::npy("{\"descr\": \"<f8\", \"shape\": (1L,), \"fortran_order\": False}", &[0; 8]);
    let deflated = archive(CompressionMethod::Deflated, true, &[("a.npy", floats.clone()), ("labels.npy", labels.clone())]);
    vec![("floats", floats), ("fortran", fortran), ("labels", labels), ("bools", bools), ("double", double), ("deflated", deflated)]
}

/// Each kind of PNG that the `image` crate writes, JPEG in colour and grey, and the JPEG of the tests that no encoder writes.
fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    use image::ExtendedColorType::{L8, L16, La8, Rgb8, Rgb16, Rgba8};
    use image::ImageEncoder;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
    let pixels: Vec<u8> = (0..5 * 3 * 6).map(|i| (i * 29 % 256) as u8).collect();
    let png = |color, size: usize| {
        let mut file = vec![];
        PngEncoder::new(&mut file).write_image(&pixels[..15 * size], 5, 3, color).expect("a picture");
        file
    };
    let jpeg = |color, size: usize| {
        let mut file = vec![];
        JpegEncoder::new_with_quality(&mut file, 80).write_image(&pixels[..15 * size], 5, 3, color).expect("a picture");
        file
    };
    vec![
        ("grey", png(L8, 1)),
        ("grey16", png(L16, 2)),
        ("grey_alpha", png(La8, 2)),
        ("rgb", png(Rgb8, 3)),
        ("rgb16", png(Rgb16, 6)),
        ("rgba", png(Rgba8, 4)),
        ("photo", jpeg(Rgb8, 3)),
        ("photo_grey", jpeg(L8, 1)),
        ("progressive", progressive(20, 9, &[0x22, 0x11, 0x11])),
    ]
}
