//! The words that checkpoints have for a run's options. They are part of the format: a name in the code may change, a word here may not, and what an option
//! gains later is written only where it is not at its default, so that older checkpoints still open.

use super::distribution::DistributionTerm;
use super::features::FeatureTerm;
use super::objective::Objective;
use super::optimizer::{Average, LearningRate, Optimizer, OptimizerKind};
use super::options::TrainerOptions;
use super::parameters::{ParameterSet, STUDENT};
use super::term::{NormKind, Term};
use crate::diffusion::{Clip, Weight};
use crate::names::Named;
use crate::nn::Guidance;
use crate::tensor::DType;

/// Recorded where it is not f32.
pub(super) const PRECISION: &str = "precision";
/// Recorded where trajectories clip: those of runs that were saved before it was an option did not.
pub(super) const CLIP: &str = "trajectory_clip";

/// Recorded where it is not 1: DDIM was the only one before.
pub(super) const TEACHER_ORDER: &str = "teacher_order";
/// Recorded where it is not 1.
pub(super) const SELF_TEACHER_STEPS: &str = "self_teacher_steps";
/// Recorded where trajectories are replaced on the way.
pub(super) const CACHE_REFRESH: &str = "cache_refresh";
/// Hash of trajectories that somebody else has computed, recorded where there are any.
pub(super) const TRAJECTORIES: &str = "trajectories";
/// Recorded where the teacher is guided.
pub(super) const GUIDANCE: &str = "guidance";
/// Parts of a step, recorded where it is not 1.
pub(super) const ACCUMULATION: &str = "gradient_accumulation_steps";
/// Recorded where terms share a point: they did not share its draws when this was not recorded yet.
pub(super) const DRAWS: &str = "draws";
/// Recorded where it is not f32, in which all trajectories were computed when this was not recorded yet.
pub(super) const TRAJECTORY_PRECISION: &str = "trajectory_precision";

/// Hash of the numbers of a student that computes in whole ones, recorded where there are any.
pub(super) const QUANTIZATION: &str = "quantization";

/// What each step of the student's grid has of its own, recorded where it has anything.
pub(super) const PER_STEP: &str = "per_step_weights";

/// How blocks are to agree, recorded where any are.
pub(super) const FEATURES: &str = "features";
/// Which blocks those are: what learns to align them depends on it.
pub(super) const BLOCKS: &str = "feature_blocks";

/// How the ends of runs are to be spread, recorded where they are to be.
pub(super) const DISTRIBUTION: &str = "distribution";

/// Names of the sets of parameters that learn, recorded where they are not the student's alone.
pub(super) const SETS: &str = "sets";

/// Which optimizer, recorded with what it alone has where it is not AdamW.
pub(super) const OPTIMIZER: &str = "optimizer";
/// Decay of the moving average, recorded where it is exponential.
pub(super) const EMA_DECAY: &str = "ema_decay";
/// How wide the moving average is, recorded in place of `ema_decay` where it is so wide.
pub(super) const EMA_RELATIVE_WIDTH: &str = "ema_relative_width";
/// Muon's learning rate.
pub(super) const MUON_LEARNING_RATE: &str = "muon_learning_rate";
/// Muon's momentum.
pub(super) const MOMENTUM: &str = "momentum";

/// The options of a run by name, as text; floats in full precision. Those that came later only where they are not at their default ([`default`]).
pub(super) fn options(o: &TrainerOptions, sets: &[ParameterSet], trajectory_clip: Clip) -> Vec<(String, String)> {
    let pairs = o.pairs.iter().map(|(t, next)| format!("({t}, {next})"));
    let mut entries = vec![
        ("seed", o.seed.to_string()),
        ("batch", o.batch.to_string()),
        ("terms", list(o.terms.iter().map(term))),
        ("pairs", list(pairs)),
        ("substeps", o.substeps.to_string()),
        ("cache_size", o.cache_size.to_string()),
        ("size", o.size.map_or("None".to_string(), |[h, w]| format!("Some([{h}, {w}])"))),
    ];
    let trajectories = if o.needs().cache { o.precision } else { DType::F32 };
    let later = [
        (FEATURES, list(o.features.iter().map(feature))),
        (BLOCKS, list(o.features.iter().map(|f| format!("{:?} as {:?}", f.student, f.teacher)))),
        (DISTRIBUTION, distribution(o.distribution)),
        (SELF_TEACHER_STEPS, o.self_teacher_steps.to_string()),
        (ACCUMULATION, o.gradient_accumulation_steps.to_string()),
        (PRECISION, precision(o.precision).to_string()),
        (CLIP, clip(trajectory_clip)),
        (GUIDANCE, guidance(o.guidance)),
        (TEACHER_ORDER, o.teacher_order.to_string()),
        (CACHE_REFRESH, o.cache_refresh.to_string()),
        (DRAWS, if o.shares_points() { "by point" } else { "by term" }.to_string()),
        (TRAJECTORY_PRECISION, precision(trajectories).to_string()),
        (SETS, sets.iter().map(ParameterSet::name).collect::<Vec<_>>().join(", ")),
    ];
    entries.extend(later.into_iter().filter(|(name, text)| default(name) != Some(text)));
    let mut named: Vec<_> = entries.into_iter().map(|(name, text)| (name.to_string(), text)).collect();
    for set in sets {
        let before = if set.name() == STUDENT { String::new() } else { format!("{}.", set.name()) };
        named.extend(optimizer(&set.optimizer).into_iter().map(|(name, text)| (format!("{before}{name}"), text)));
    }
    named
}

fn optimizer(o: &Optimizer) -> Vec<(&'static str, String)> {
    let mut words = vec![
        ("learning_rate", o.learning_rate.to_string()),
        ("warmup_steps", o.warmup_steps.to_string()),
        ("total_steps", o.total_steps.to_string()),
        ("decay", decay(o.decay).to_string()),
        ("beta1", o.beta1.to_string()),
        ("beta2", o.beta2.to_string()),
        ("eps", o.eps.to_string()),
        ("weight_decay", o.weight_decay.to_string()),
        ("clip_norm", o.clip_norm.to_string()),
        match o.average {
            Average::Exponential(decay) => (EMA_DECAY, decay.to_string()),
            Average::Power(width) => (EMA_RELATIVE_WIDTH, width.to_string()),
        },
    ];
    if o.kind == OptimizerKind::Muon {
        let muon = [(OPTIMIZER, o.kind.name().to_string()), (MUON_LEARNING_RATE, o.muon_learning_rate.to_string()), (MOMENTUM, o.momentum.to_string())];
        words.extend(muon);
    }
    words
}

/// What a record that does not name an option means.
pub(super) fn default(option: &str) -> Option<&'static str> {
    match option.rsplit_once('.').map_or(option, |(_set, option)| option) {
        PRECISION | TRAJECTORY_PRECISION => Some("F32"),
        CLIP | GUIDANCE | QUANTIZATION | TRAJECTORIES | DISTRIBUTION => Some("None"),
        PER_STEP | EMA_DECAY | EMA_RELATIVE_WIDTH => Some("none"),
        DRAWS => Some("by term"),
        TEACHER_ORDER | SELF_TEACHER_STEPS | ACCUMULATION => Some("1"),
        CACHE_REFRESH => Some("0"),
        SETS => Some(STUDENT),
        OPTIMIZER => Some("AdamW"),
        FEATURES | BLOCKS => Some("[]"),
        _ => None,
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn term(t: &Term) -> String {
    let matched = match Objective::of(t.point, t.target) {
        Some(objective) => format!("objective: {}", objective.name()),
        None => format!("point: {}, target: {}", t.point.name(), t.target.name()),
    };
    let (weight, step_weight, norm) = (t.weight, step_weight(t.step_weight), norm(t.norm));
    let fit = if t.linear_fit_steps == 0 { String::new() } else { format!(", linear_fit_steps: {}", t.linear_fit_steps) };
    format!("Term {{ {matched}, weight: {weight:?}, step_weight: {step_weight}, norm: {norm}{fit} }}")
}

fn feature(f: &FeatureTerm) -> String {
    let (point, norm) = (f.point.name(), norm(f.norm));
    let FeatureTerm { weight, decay_steps, .. } = f;
    format!("Feature {{ point: {point}, norm: {norm}, weight: {weight:?}, decay_steps: {decay_steps} }}")
}

fn distribution(distribution: Option<DistributionTerm>) -> String {
    distribution.map_or("None".to_string(), |DistributionTerm { nets, weight }| format!("RandomNets {{ nets: {nets}, weight: {weight:?} }}"))
}

fn norm(norm: NormKind) -> String {
    match norm {
        NormKind::L1 => "L1".to_string(),
        NormKind::L2 => "L2".to_string(),
        NormKind::Huber(delta) => format!("Huber({delta:?})"),
    }
}

fn decay(decay: LearningRate) -> &'static str {
    match decay {
        LearningRate::Constant => "Constant",
        LearningRate::Cosine => "Cosine",
        LearningRate::Stable => "Stable",
    }
}

fn precision(precision: DType) -> &'static str {
    match precision {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "Bf16",
        // Refused when the trainer is created.
        DType::I8 | DType::U8 | DType::I32 | DType::I64 => "none",
    }
}

fn clip(clip: Clip) -> String {
    match clip {
        Clip::None => "None".to_string(),
        Clip::Range(range) => format!("Range({range:?})"),
        Clip::Dynamic { ratio, max } => format!("Dynamic {{ ratio: {ratio:?}, max: {max:?} }}"),
    }
}

fn guidance(guidance: Option<Guidance>) -> String {
    guidance.map_or("None".to_string(), |g| format!("Guidance {{ scale: {:?}, null_label: {} }}", g.scale, g.null_label))
}

fn step_weight(weight: Weight) -> &'static str {
    match weight {
        Weight::Const => "Const",
        Weight::Snr => "Snr",
        Weight::TruncSnr => "TruncSnr",
        Weight::V => "V",
        Weight::State => "State",
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters::{Parameter, Rule};
    use super::super::{Point, Target};
    use super::*;
    use crate::tensor::Tensor;
    use std::sync::Arc;

    /// What a checkpoint of 0.1.0-dev says of a run with no option at its default. These words are on people's disks.
    #[test]
    fn the_words_of_the_format_stay() {
        let term = |objective: Objective, step_weight, norm| Term { weight: 0.5, ..objective.term(step_weight, norm) };
        let o = TrainerOptions {
            seed: 7,
            terms: vec![
                term(Objective::Output, Weight::Const, NormKind::L1),
                term(Objective::TeacherForced, Weight::Snr, NormKind::L2),
                term(Objective::OnPolicy, Weight::TruncSnr, NormKind::Huber(0.1)),
                Objective::Denoise.term(Weight::V, NormKind::L2),
                Term { point: Point::Own, target: Target::TeacherOutput, linear_fit_steps: 9, ..term(Objective::OnPolicy, Weight::V, NormKind::L1) },
                term(Objective::Resolve, Weight::State, NormKind::L2),
                term(Objective::Rollout, Weight::State, NormKind::L2),
                Term { point: Point::Cached, target: Target::Resolved, ..term(Objective::Resolve, Weight::V, NormKind::L1) },
            ],
            pairs: vec![(999, 499), (499, -1)],
            optimizer: Optimizer {
                learning_rate: 1e-3,
                decay: LearningRate::Constant,
                clip_norm: f64::INFINITY,
                average: Average::Exponential(0.995),
                ..Optimizer::default()
            },
            features: vec![
                FeatureTerm { point: Point::Data, student: "mid_block".into(), teacher: "mid_block".into(), norm: NormKind::L2, weight: 0.5, decay_steps: 7 },
                FeatureTerm { point: Point::Own, student: "a".into(), teacher: "b".into(), norm: NormKind::L1, weight: 1.0, decay_steps: 0 },
            ],
            distribution: Some(DistributionTerm { nets: 3, weight: 0.5 }),
            size: Some([8, 16]),
            teacher_order: 3,
            cache_refresh: 50,
            precision: DType::Bf16,
            ..TrainerOptions::default()
        };
        let terms = "[Term { objective: Output, weight: 0.5, step_weight: Const, norm: L1 }, \
                     Term { objective: TeacherForced, weight: 0.5, step_weight: Snr, norm: L2 }, \
                     Term { objective: OnPolicy, weight: 0.5, step_weight: TruncSnr, norm: Huber(0.1) }, \
                     Term { objective: Denoise, weight: 1.0, step_weight: V, norm: L2 }, \
                     Term { point: Own, target: TeacherOutput, weight: 0.5, step_weight: V, norm: L1, linear_fit_steps: 9 }, \
                     Term { objective: Resolve, weight: 0.5, step_weight: State, norm: L2 }, \
                     Term { objective: Rollout, weight: 0.5, step_weight: State, norm: L2 }, \
                     Term { point: Cached, target: Resolved, weight: 0.5, step_weight: V, norm: L1 }]";
        let features = "[Feature { point: Data, norm: L2, weight: 0.5, decay_steps: 7 }, Feature { point: Own, norm: L1, weight: 1.0, decay_steps: 0 }]";
        let expected = [
            ("seed", "7"),
            ("batch", "64"),
            ("terms", terms),
            ("pairs", "[(999, 499), (499, -1)]"),
            ("substeps", "8"),
            ("cache_size", "8192"),
            ("size", "Some([8, 16])"),
            ("features", features),
            ("feature_blocks", r#"["mid_block" as "mid_block", "a" as "b"]"#),
            ("distribution", "RandomNets { nets: 3, weight: 0.5 }"),
            ("precision", "Bf16"),
            ("trajectory_clip", "Dynamic { ratio: 0.995, max: 1.0 }"),
            ("teacher_order", "3"),
            ("cache_refresh", "50"),
            ("draws", "by point"),
            ("trajectory_precision", "Bf16"),
            ("learning_rate", "0.001"),
            ("warmup_steps", "100"),
            ("total_steps", "1000"),
            ("decay", "Constant"),
            ("beta1", "0.9"),
            ("beta2", "0.999"),
            ("eps", "0.00000001"),
            ("weight_decay", "0"),
            ("clip_norm", "inf"),
            ("ema_decay", "0.995"),
        ];
        let initial = || Arc::new(Tensor::from_slice(&[1], &[0f32]).expect("a tensor"));
        let parameter = || Parameter { name: "w".into(), initial: initial(), rule: Rule::AdamW };
        let set = |name: &str, optimizer: &Optimizer| ParameterSet::new(name, vec![parameter()], optimizer.clone()).expect("a set");
        let student = |o: &TrainerOptions| vec![set("student", &o.optimizer)];
        let found = options(&o, &student(&o), Clip::Dynamic { ratio: 0.995, max: 1.0 });
        assert_eq!(found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect::<Vec<_>>(), expected);
        let cosine = Optimizer { decay: LearningRate::Cosine, ..Optimizer::default() };
        let terms = vec![term(Objective::Output, Weight::State, NormKind::L1)];
        let plain = TrainerOptions { optimizer: cosine, terms, ..TrainerOptions::default() };
        let word = |o: &TrainerOptions, sets: &[ParameterSet], clip: Clip, name: &str| {
            options(o, sets, clip).into_iter().find(|(found, _)| *found == name).map(|(_, text)| text)
        };
        let of = |name: &str| word(&plain, &student(&plain), Clip::None, name);
        assert_eq!([of("decay"), of("size")], [Some("Cosine".into()), Some("None".into())]);
        assert_eq!(super::decay(LearningRate::Stable), "Stable");
        assert!(
            [
                "precision",
                "trajectory_clip",
                "teacher_order",
                "cache_refresh",
                "draws",
                "trajectory_precision",
                "sets",
                "features",
                "feature_blocks",
                "distribution"
            ]
            .iter()
            .all(|later| of(later).is_none())
        );
        assert_eq!(of("terms").as_deref(), Some("[Term { objective: Output, weight: 0.5, step_weight: State, norm: L1 }]"));
        assert_eq!(word(&plain, &student(&plain), Clip::Range(1.0), "trajectory_clip").as_deref(), Some("Range(1.0)"));
        // Nothing is computed in advance for terms that read no trajectory.
        let half = TrainerOptions { precision: DType::F16, ..plain.clone() };
        let of = |name: &str| word(&half, &student(&half), Clip::None, name);
        assert_eq!([of("precision").as_deref(), of("trajectory_precision").as_deref()], [Some("F16"), None]);
        let sets = [student(&plain), vec![set("align", &Optimizer { beta1: 0.5, ..Optimizer::default() })]].concat();
        let of = |name: &str| word(&plain, &sets, Clip::None, name);
        assert_eq!([of("sets").as_deref(), of("beta1").as_deref(), of("align.beta1").as_deref()], [Some("student, align"), Some("0.9"), Some("0.5")]);
        assert_eq!(["optimizer", "muon_learning_rate", "momentum"].map(of), [None, None, None]);
        let muon = Optimizer { kind: OptimizerKind::Muon, ..Optimizer::default() };
        let of = |name: &str| word(&plain, &[set("student", &muon)], Clip::None, name);
        let words = ["optimizer", "muon_learning_rate", "momentum"].map(of);
        assert_eq!(words.each_ref().map(|word| word.as_deref()), [Some("Muon"), Some("0.02"), Some("0.95")]);
    }
}
