//! Whether a U-Net's numbers fit together.

use super::config::{MAX_BLOCKS, MAX_CHANNELS, MAX_LAYERS, UNetConfig};
use crate::error::{Error, Result};

impl UNetConfig {
    /// Refuses what diffusers would refuse, what would give no finite result, and sizes beyond every machine.
    pub fn validate(&self) -> Result<()> {
        self.check_lengths()?;
        self.check_ranges()?;
        self.check_numbers()?;
        self.check_groups()?;
        self.check_heads()?;
        self.check_sizes()
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
        let down = self.down_block_types.iter().map(|b| b.attention().is_some()).zip(self.block_out_channels.iter());
        let up = self.up_block_types.iter().map(|b| b.attention().is_some()).zip(self.block_out_channels.iter().rev());
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
}
