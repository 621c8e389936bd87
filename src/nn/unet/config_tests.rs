use super::*;
use crate::Status;
use crate::error::Result;
use crate::nn::blocks::attention::Mixing;
use crate::nn::{Network, families};

/// A small valid model; the cases below change one key of it.
const BASIC: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "act_fn": "silu", "add_attention": true, "attention_head_dim": 8,
"attn_norm_num_groups": null, "block_out_channels": [16, 32], "center_input_sample": false, "class_embed_type": null,
"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "downsample_padding": 1, "downsample_type": "conv", "dropout": 0.0, "flip_sin_to_cos": true,
"freq_shift": 0, "in_channels": 3, "layers_per_block": 1, "mid_block_scale_factor": 1.25, "mid_block_type": "UNetMidBlock2D", "norm_eps": 1e-05,
"norm_num_groups": 8, "num_class_embeds": 10, "num_train_timesteps": null, "out_channels": 3, "resnet_time_scale_shift": "default",
"sample_size": [16, 24], "time_embedding_dim": null, "time_embedding_type": "positional", "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
"upsample_type": "conv"}"#;

/// google/ddpm-cifar10-32 as of diffusers 0.0.4: many keys of today are missing.
const CIFAR: &str = r#"{"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": null,
"block_out_channels": [128, 256, 256, 256], "center_input_sample": false, "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
"downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06,
"norm_num_groups": 32, "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
"up_block_types": ["UNetResUpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "_name_or_path": "x", "num_groups": 3}"#;

fn written(config: &UNetConfig) -> Result<String> {
    (config as &dyn Network).to_json()
}

/// `BASIC` with one key changed.
fn with(key: &str, value: &str) -> String {
    let mut map: Map<String, Value> = serde_json::from_str(BASIC).unwrap();
    map.insert(key.into(), serde_json::from_str(value).unwrap());
    Value::Object(map).to_string()
}

#[test]
fn reads_every_key() {
    let c = UNetConfig::parse(BASIC, "config.json").unwrap();
    assert_eq!((c.sample_size, c.in_channels, c.layers_per_block), (Some((16, 24)), 3, 1));
    assert_eq!(c.block_out_channels, [16, 32]);
    assert!(c.down_block_types[0].attention().is_none() && c.down_block_types[1].attention() == Some(Mixing::Softmax));
    assert!(c.up_block_types[0].attention() == Some(Mixing::Softmax) && c.up_block_types[1].attention().is_none());
    assert_eq!((c.class_embedding(), c.time_embed_dim(), c.size_multiple()), (ClassEmbedding::Table(10), 64, 2));
    assert_eq!((c.mid_block_scale_factor, c.norm_eps, c.attention_heads(32)), (1.25, 1e-5, (4, 8)));
    assert!(c.unknown.warnings.is_empty());
}

#[test]
fn missing_keys_take_the_defaults_and_unknown_ones_warn() {
    let c = UNetConfig::parse(CIFAR, "config.json").unwrap();
    assert_eq!((c.attention_head_dim, c.freq_shift, c.downsample_padding), (None, 1.0, 0));
    assert_eq!((c.mid_block_type, c.add_attention, c.resnet_time_scale_shift), (Some(MidBlock::UNetMid), true, TimeScaleShift::Default));
    assert_eq!(c.attention_heads(256), (1, 256));
    assert_eq!(c.unknown.warnings, ["config.json: unknown key \"num_groups\" is ignored"]);
    // The public model's count, as diffusers reports it.
    let parameters = (&c as &dyn Network).parameters().unwrap();
    assert_eq!(parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum::<usize>(), 35_746_307);
    assert_eq!(UNetConfig::parse("{}", "c").unwrap(), UNetConfig::default());
}

#[test]
fn writes_what_diffusers_writes() {
    for text in [BASIC, CIFAR, "{}"] {
        let config = UNetConfig::parse(text, "c").unwrap();
        let again = UNetConfig::parse(&written(&config).unwrap(), "c").unwrap();
        assert_eq!(again, config);
        assert_eq!(written(&again).unwrap(), written(&config).unwrap());
    }
    let ours: Value = serde_json::from_str(&written(&UNetConfig::parse(BASIC, "c").unwrap()).unwrap()).unwrap();
    assert_eq!(ours, serde_json::from_str::<Value>(BASIC).unwrap());
    assert_eq!(serde_json::from_str::<Value>(&with("act_fn", "\"x\"")).unwrap()["act_fn"], "x");
}

#[test]
fn unknown_keys_are_written_back_but_for_large_ones() {
    let text = with("training_note", r#"{"by": ["me", 1, null], "lr": 1e-4}"#);
    let config = UNetConfig::parse(&text, "c").unwrap();
    assert_eq!(config.unknown.warnings, ["c: unknown key \"training_note\" is ignored"]);
    assert_eq!(serde_json::from_str::<Value>(&written(&config).unwrap()).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
    let config = UNetConfig::parse(&with("training_note", &format!("\"{}\"", "x".repeat(MAX_OTHER))), "c").unwrap();
    assert!(config.unknown.other.is_empty() && config.unknown.warnings[1].contains("too large to be kept"), "{:?}", config.unknown.warnings);
}

#[test]
fn spellings_of_old_and_sloppy_files_are_understood() {
    let parse = |key, value| UNetConfig::parse(&with(key, value), "c").unwrap();
    assert_eq!(parse("act_fn", "\"SwiSH\"").act_fn, Activation::Silu);
    assert_eq!(parse("act_fn", "\"mish\"").act_fn, Activation::Mish);
    assert_eq!(parse("sample_size", "16").sample_size, Some((16, 16)));
    assert_eq!(parse("sample_size", "null").sample_size, None);
    assert_eq!(parse("time_embedding_dim", "0").time_embed_dim(), 64);
    assert_eq!(parse("time_embedding_dim", "48").time_embed_dim(), 48);
    assert_eq!(parse("mid_block_type", "null").mid_block_type, None);
    assert_eq!(parse("class_embed_type", "\"timestep\"").class_embedding(), ClassEmbedding::Timestep);
    assert_eq!(parse("downsample_type", "null").downsample_type, Resampling::Conv);
    assert_eq!(parse("upsample_type", "\"resnet\"").upsample_type, Resampling::Resnet);
    assert_eq!(parse("attention_head_dim", "10").attention_heads(32), (3, 10));
    assert_eq!(parse("resnet_time_scale_shift", "\"scale_shift\"").mid_attention_groups(), None);
    assert_eq!(parse("attn_norm_num_groups", "4").mid_attention_groups(), Some(4));
}

#[test]
fn unsupported_values_are_named() {
    let cases = [
        ("time_embedding_type", "\"fourier\"", "fourier"),
        ("time_embedding_type", "\"learned\"", "learned"),
        ("down_block_types", "[\"DownBlock2D\", \"SkipDownBlock2D\"]", "SkipDownBlock2D"),
        ("down_block_types", "[\"DownBlock2D\", \"AttnSkipDownBlock2D\"]", "AttnSkipDownBlock2D"),
        ("down_block_types", "[\"DownBlock2D\", \"ResnetDownsampleBlock2D\"]", "ResnetDownsampleBlock2D"),
        ("up_block_types", "[\"SkipUpBlock2D\", \"UpBlock2D\"]", "SkipUpBlock2D"),
        ("up_block_types", "[\"ResnetUpsampleBlock2D\", \"UpBlock2D\"]", "ResnetUpsampleBlock2D"),
        ("resnet_time_scale_shift", "\"spatial\"", "spatial"),
        ("class_embed_type", "\"identity\"", "identity"),
        ("act_fn", "\"tanh\"", "tanh"),
        ("mid_block_type", "\"UNetMidBlock2DCrossAttn\"", "UNetMidBlock2DCrossAttn"),
        ("downsample_type", "\"fir\"", "fir"),
        ("downsample_padding", "2", "2"),
    ];
    for (key, value, words) in cases {
        let error = UNetConfig::parse(&with(key, value), "c.json").unwrap_err();
        assert_eq!(error.status, Status::Unsupported, "{key} {value}: {error}");
        assert!(error.message.contains(words) && error.message.contains("c.json"), "{error}");
        assert!(error.message.contains(key), "{error}");
    }
}

#[test]
fn other_classes_are_named() {
    let error = families::parse(&with("_class_name", "\"UNet2DConditionModel\""), "c.json").unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("c.json: model class \"UNet2DConditionModel\", expected \"UNet2DModel\""), "{error}");
    assert_eq!(families::parse(&with("_class_name", "null"), "c").unwrap().signature().in_channels, 3);
}

#[test]
fn numbers_that_cannot_be_meant_are_refused() {
    let cases = [
        ("in_channels", "0"),
        ("in_channels", "-1"),
        ("in_channels", "3.5"),
        ("in_channels", "null"),
        ("out_channels", "65537"),
        ("out_channels", "18446744073709551616"),
        ("layers_per_block", "0"),
        ("layers_per_block", "1000000000"),
        ("block_out_channels", "[16]"),
        ("block_out_channels", "[]"),
        ("block_out_channels", "[16, 0]"),
        ("block_out_channels", "[16, \"a\"]"),
        ("block_out_channels", "[16, 36]"),
        ("block_out_channels", "16"),
        ("down_block_types", "[\"DownBlock2D\"]"),
        ("down_block_types", "\"DownBlock2D\""),
        ("down_block_types", "[1, 2]"),
        ("up_block_types", "[]"),
        ("norm_num_groups", "0"),
        ("norm_num_groups", "null"),
        ("norm_num_groups", "12"),
        ("attn_norm_num_groups", "5"),
        ("attention_head_dim", "0"),
        ("attention_head_dim", "33"),
        ("sample_size", "0"),
        ("sample_size", "[16, 15]"),
        ("sample_size", "[16, 16, 16]"),
        ("sample_size", "\"16\""),
        ("freq_shift", "8"),
        ("freq_shift", "\"Infinity\""),
        ("norm_eps", "0"),
        ("norm_eps", "-1e-5"),
        ("dropout", "1.5"),
        ("mid_block_scale_factor", "0"),
        ("mid_block_scale_factor", "\"NaN\""),
        ("num_class_embeds", "-3"),
        ("time_embedding_dim", "1e30"),
        ("center_input_sample", "\"yes\""),
        ("act_fn", "null"),
    ];
    for (key, value) in cases {
        let error = UNetConfig::parse(&with(key, value), "c.json").unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument, "{key} {value}: {error}");
        assert!(error.message.starts_with("c.json"), "{error}");
    }
    assert_eq!(UNetConfig::parse("{", "c").unwrap_err().status, Status::CorruptFile);
    assert_eq!(UNetConfig::parse("[]", "c").unwrap_err().status, Status::CorruptFile);
}

#[test]
fn configs_made_by_hand_are_checked_too() {
    let good = UNetConfig::parse(BASIC, "c").unwrap();
    let huge = UNetConfig {
        block_out_channels: vec![65536; 16],
        down_block_types: vec![DownBlock::Plain; 16],
        up_block_types: vec![UpBlock::Plain; 16],
        layers_per_block: 64,
        sample_size: None,
        ..good.clone()
    };
    assert_eq!((&huge as &dyn Network).parameters().unwrap_err().status, Status::InvalidArgument);
    let cases = [
        UNetConfig { block_out_channels: vec![], down_block_types: vec![], up_block_types: vec![], ..good.clone() },
        UNetConfig { block_out_channels: vec![usize::MAX, 8], ..good.clone() },
        UNetConfig { num_class_embeds: Some(usize::MAX), ..good.clone() },
        UNetConfig { attn_norm_num_groups: Some(0), ..good.clone() },
        UNetConfig { norm_num_groups: 0, ..good.clone() },
        UNetConfig { norm_eps: f64::NAN, ..good.clone() },
        UNetConfig { dropout: f64::NAN, ..good.clone() },
    ];
    for (i, config) in cases.iter().enumerate() {
        assert_eq!(config.validate().unwrap_err().status, Status::InvalidArgument, "case {i}");
    }
    good.validate().unwrap();
}
