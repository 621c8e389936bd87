//! Whether a U-Net's numbers fit together, and how many parameters they make.

use super::{ClassEmbedding, MAX_BLOCKS, MAX_CHANNELS, MAX_LAYERS, MAX_PARAMETERS, Resampling, TimeScaleShift, UNetConfig};
use crate::error::{Error, Result};

impl UNetConfig {
    /// Refuses what diffusers would refuse, what would give no finite result, and sizes beyond every machine.
    pub fn validate(&self) -> Result<()> {
        self.check_lengths()?;
        self.check_ranges()?;
        self.check_numbers()?;
        self.check_groups()?;
        self.check_heads()?;
        self.check_sizes()?;
        self.parameter_count().map(drop)
    }

    fn check_lengths(&self) -> Result<()> {
        let (down, up, channels) = (self.down_block_types.len(), self.up_block_types.len(), self.block_out_channels.len());
        if down != up || down != channels || !(1..=MAX_BLOCKS).contains(&down) {
            return Err(Error::invalid(format!(
                "down_block_types has {down} entries, up_block_types {up}, block_out_channels {channels}; expected the same number, 1 to {MAX_BLOCKS}"
            )));
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<()> {
        let within = |key: &str, value: usize, max: usize| {
            let ok = (1..=max).contains(&value);
            if ok { Ok(()) } else { Err(Error::invalid(format!("{key}: expected 1 to {max}, found {value}"))) }
        };
        within("in_channels", self.in_channels, MAX_CHANNELS)?;
        within("out_channels", self.out_channels, MAX_CHANNELS)?;
        within("layers_per_block", self.layers_per_block, MAX_LAYERS)?;
        within("norm_num_groups", self.norm_num_groups, MAX_CHANNELS)?;
        for channels in &self.block_out_channels {
            within("block_out_channels", *channels, MAX_CHANNELS)?;
        }
        let optional = [
            ("time_embedding_dim", self.time_embedding_dim, 4 * MAX_CHANNELS),
            ("attention_head_dim", self.attention_head_dim, MAX_CHANNELS),
            ("attn_norm_num_groups", self.attn_norm_num_groups, MAX_CHANNELS),
            ("num_class_embeds", self.num_class_embeds, 1 << 24),
            ("sample_size", self.sample_size.map(|(h, _)| h), MAX_CHANNELS),
            ("sample_size", self.sample_size.map(|(_, w)| w), MAX_CHANNELS),
        ];
        optional.into_iter().try_for_each(|(key, value, max)| value.map_or(Ok(()), |v| within(key, v, max)))
    }

    fn check_numbers(&self) -> Result<()> {
        let wrong = |key: &str, expected: &str, found: f64| Err(Error::invalid(format!("{key}: expected {expected}, found {found}")));
        if !(self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0) {
            return wrong("mid_block_scale_factor", "a finite number other than 0", self.mid_block_scale_factor);
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return wrong("norm_eps", "a positive number", self.norm_eps);
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return wrong("dropout", "0 to 1", self.dropout);
        }
        // The sinusoid's frequencies are 10000^(-i / (half - freq_shift)).
        let half = (self.block_out_channels[0] / 2) as f64;
        if !self.freq_shift.is_finite() || half == self.freq_shift {
            return wrong("freq_shift", &format!("a finite number other than {half}, half the first block's channels"), self.freq_shift);
        }
        Ok(())
    }

    /// Every norm's channels must divide into its groups. A resnet's second norm has its block's channels and its first one has sums of blocks'
    /// channels, so the blocks' own channels are all there is to check.
    fn check_groups(&self) -> Result<()> {
        let check = |key: &str, groups: usize, channels: usize| {
            if channels.is_multiple_of(groups) {
                return Ok(());
            }
            Err(Error::invalid(format!("block_out_channels: {channels} channels do not divide into {key} = {groups} groups")))
        };
        self.block_out_channels.iter().try_for_each(|c| check("norm_num_groups", self.norm_num_groups, *c))?;
        match self.attn_norm_num_groups {
            Some(groups) if self.mid_attention() => check("attn_norm_num_groups", groups, self.last_channels()),
            _ => Ok(()),
        }
    }

    /// An attention layer needs at least one head; channels left over after whole heads are allowed.
    fn check_heads(&self) -> Result<()> {
        let Some(dim) = self.attention_head_dim else { return Ok(()) };
        let down = self.down_block_types.iter().map(|b| b.has_attention()).zip(self.block_out_channels.iter());
        let up = self.up_block_types.iter().map(|b| b.has_attention()).zip(self.block_out_channels.iter().rev());
        let mid = [(self.mid_attention(), &self.block_out_channels[self.block_out_channels.len() - 1])];
        match down.chain(up).chain(mid).find(|(attention, channels)| *attention && dim > **channels) {
            Some((_, channels)) => Err(Error::invalid(format!("attention_head_dim {dim} is larger than the {channels} channels of a block with attention"))),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<()> {
        if self.block_out_channels.len() > 1 && self.downsample_padding > 1 {
            // The map would not halve, and the skip connections would not fit.
            return Err(Error::unsupported(format!("downsample_padding {} is not supported; supported: 0, 1", self.downsample_padding)));
        }
        let multiple = self.size_multiple();
        match self.sample_size {
            Some((h, w)) if !(h.is_multiple_of(multiple) && w.is_multiple_of(multiple)) => {
                let blocks = self.block_out_channels.len();
                Err(Error::invalid(format!("sample_size {h}x{w}: sides must be multiples of {multiple} with {blocks} blocks")))
            }
            _ => Ok(()),
        }
    }

    fn last_channels(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }

    /// How many numbers the model's tensors hold together.
    pub fn parameter_count(&self) -> Result<u64> {
        self.check_lengths()?;
        // Within these ranges no sum below overflows; products are checked.
        self.check_ranges()?;
        let too_many = || Error::invalid(format!("the model has more than {MAX_PARAMETERS} parameters"));
        self.count().filter(|n| *n <= MAX_PARAMETERS).ok_or_else(too_many)
    }

    fn count(&self) -> Option<u64> {
        let first = self.block_out_channels[0];
        let temb = self.time_embed_dim();
        let mut sum = Sum(Some(0));
        sum.conv(self.in_channels, first, 3);
        sum.linear(first, temb);
        sum.linear(temb, temb);
        match self.class_embedding() {
            ClassEmbedding::None => {}
            ClassEmbedding::Table(rows) => sum.add(&[rows, temb]),
            ClassEmbedding::Timestep => {
                sum.linear(first, temb);
                sum.linear(temb, temb);
            }
        }
        self.count_down(&mut sum);
        self.count_mid(&mut sum);
        self.count_up(&mut sum);
        sum.norm(first);
        sum.conv(first, self.out_channels, 3);
        sum.0
    }

    fn count_down(&self, sum: &mut Sum) {
        let last = self.block_out_channels.len() - 1;
        let mut input = self.block_out_channels[0];
        for (i, (block, &out)) in self.down_block_types.iter().zip(&self.block_out_channels).enumerate() {
            for j in 0..self.layers_per_block {
                self.count_resnet(sum, if j == 0 { input } else { out }, out);
                if block.has_attention() {
                    self.count_attention(sum, out, true);
                }
            }
            if i != last {
                self.count_resampling(sum, block.has_attention(), self.downsample_type, out);
            }
            input = out;
        }
    }

    fn count_mid(&self, sum: &mut Sum) {
        let channels = self.last_channels();
        if self.mid_block_type.is_some() {
            self.count_resnet(sum, channels, channels);
            self.count_resnet(sum, channels, channels);
        }
        if self.mid_attention() {
            self.count_attention(sum, channels, self.mid_attention_groups().is_some());
        }
    }

    fn count_up(&self, sum: &mut Sum) {
        let reversed: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        let last = reversed.len() - 1;
        for (i, block) in self.up_block_types.iter().enumerate() {
            let (previous, out, skip) = (reversed[i.saturating_sub(1)], reversed[i], reversed[(i + 1).min(last)]);
            for j in 0..=self.layers_per_block {
                let input = if j == 0 { previous } else { out };
                self.count_resnet(sum, input + if j == self.layers_per_block { skip } else { out }, out);
                if block.has_attention() {
                    self.count_attention(sum, out, true);
                }
            }
            if i != last {
                self.count_resampling(sum, block.has_attention(), self.upsample_type, out);
            }
        }
    }

    fn count_resnet(&self, sum: &mut Sum, input: usize, out: usize) {
        let factor = if self.resnet_time_scale_shift == TimeScaleShift::ScaleShift { 2 } else { 1 };
        sum.norm(input);
        sum.conv(input, out, 3);
        sum.linear(self.time_embed_dim(), factor * out);
        sum.norm(out);
        sum.conv(out, out, 3);
        if input != out {
            sum.conv(input, out, 1);
        }
    }

    fn count_attention(&self, sum: &mut Sum, channels: usize, norm: bool) {
        let (heads, dim) = self.attention_heads(channels);
        if norm {
            sum.norm(channels);
        }
        for _ in 0..3 {
            sum.linear(channels, heads * dim);
        }
        sum.linear(heads * dim, channels);
    }

    fn count_resampling(&self, sum: &mut Sum, attention: bool, kind: Resampling, channels: usize) {
        match kind {
            Resampling::Resnet if attention => self.count_resnet(sum, channels, channels),
            _ => sum.conv(channels, channels, 3),
        }
    }
}

/// A sum that remembers having overflowed.
struct Sum(Option<u64>);

impl Sum {
    fn add(&mut self, shape: &[usize]) {
        let n = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
        self.0 = self.0.zip(n).and_then(|(sum, n)| sum.checked_add(n));
    }

    fn linear(&mut self, input: usize, out: usize) {
        self.add(&[input, out]);
        self.add(&[out]);
    }

    fn conv(&mut self, input: usize, out: usize, kernel: usize) {
        self.add(&[input, out, kernel, kernel]);
        self.add(&[out]);
    }

    fn norm(&mut self, channels: usize) {
        self.add(&[channels, 2]);
    }
}
