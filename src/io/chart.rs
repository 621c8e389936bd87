//! Curves over training steps as one SVG picture, which any browser shows.

use crate::error::Result;
use crate::memory;
use std::fmt::Write;

/// A curve.
#[derive(Clone, Copy, Debug)]
pub struct Curve<'a> {
    /// Shown beside it.
    pub name: &'a str,
    /// (step, value), steps rising. Values that a logarithmic axis cannot show are left out.
    pub points: &'a [(u64, f64)],
}

/// Curves in one pair of axes; y is logarithmic.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// Above it.
    pub title: &'a str,
    /// Drawn in this order.
    pub curves: &'a [Curve<'a>],
}

/// Sizes in the picture's units: of a panel's axes, and what is left, above, right and below of them.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const ABOVE: f64 = 36.0;
const RIGHT: f64 = 150.0;
const BELOW: f64 = 34.0;
/// Colours that people with colour blindness tell apart (Okabe and Ito 2008).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The picture of panels, one below the other.
pub fn svg(panels: &[Panel]) -> Result<String> {
    let (width, height) = (LEFT + WIDTH + RIGHT, panels.len() as f64 * (ABOVE + HEIGHT + BELOW));
    let mut out = Text::default();
    out.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">"
    ))?;
    out.line(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"))?;
    for (i, panel) in panels.iter().enumerate() {
        out.line(format_args!("<g transform=\"translate({LEFT} {})\">", i as f64 * (ABOVE + HEIGHT + BELOW) + ABOVE))?;
        draw(&mut out, panel)?;
        out.line(format_args!("</g>"))?;
    }
    out.line(format_args!("</svg>"))?;
    Ok(out.0)
}

/// A text that grows where there is memory for it.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments) -> Result<()> {
        struct Grow<'a>(&'a mut String, Result<()>);
        impl Write for Grow<'_> {
            fn write_str(&mut self, more: &str) -> std::fmt::Result {
                self.1 = memory::append_text(self.0, more, "a chart");
                self.1.as_ref().map_err(|_| std::fmt::Error).copied()
            }
        }
        let mut grow = Grow(&mut self.0, Ok(()));
        let _ = grow.write_fmt(line).and_then(|()| grow.write_str("\n"));
        grow.1
    }
}

/// Where steps and values lie.
struct Axes {
    steps: [f64; 2],
    /// Logarithms.
    values: [f64; 2],
}

impl Axes {
    fn of(curves: &[Curve]) -> Option<Self> {
        let shown = || curves.iter().flat_map(|curve| curve.points).filter(|(_, value)| is_shown(*value));
        let last = shown().map(|(step, _)| *step).max()?;
        let (low, high) = shown().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, v)| (low.min(v.log10()), high.max(v.log10())));
        let margin = (0.05 * (high - low)).max(0.02);
        Some(Self { steps: [0.0, (last as f64).max(1.0)], values: [low - margin, high + margin] })
    }

    fn x(&self, step: f64) -> f64 {
        WIDTH * (step - self.steps[0]) / (self.steps[1] - self.steps[0])
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT * (self.values[1] - value.log10()) / (self.values[1] - self.values[0])
    }

    /// Four to ten round steps.
    fn ticks_of_steps(&self) -> impl Iterator<Item = f64> {
        let rough = self.steps[1] / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let by = [1.0, 2.0, 5.0].into_iter().map(|m| m * unit).rfind(|by| *by <= rough).unwrap_or(unit).max(1.0);
        let last = self.steps[1];
        (0..=20).map(move |i| i as f64 * by).take_while(move |step| *step <= last)
    }

    /// 1, 2 and 5 times powers of ten where there are few of these, else the powers alone.
    fn ticks_of_values(&self) -> impl Iterator<Item = f64> {
        let [low, high] = self.values;
        let multiples: &[f64] = if high - low < 0.5 {
            &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
        } else if high - low < 3.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let powers = low.floor() as i32..=high.ceil() as i32;
        powers.flat_map(move |p| multiples.iter().map(move |m| m * 10f64.powi(p))).filter(move |v| (low..=high).contains(&v.log10()))
    }
}

fn is_shown(value: f64) -> bool {
    value > 0.0 && value.is_finite()
}

fn draw(out: &mut Text, panel: &Panel) -> Result<()> {
    out.line(format_args!("<text y=\"-12\" font-size=\"14\">{}</text>", Escaped(panel.title)))?;
    out.line(format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>"))?;
    let Some(axes) = Axes::of(panel.curves) else { return out.line(format_args!("<text x=\"8\" y=\"20\">no values yet</text>")) };
    for step in axes.ticks_of_steps() {
        let x = axes.x(step);
        out.line(format_args!(
            "<path d=\"M{x:.1} 0V{HEIGHT}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{step}</text>",
            HEIGHT + 16.0
        ))?;
    }
    for value in axes.ticks_of_values() {
        let y = axes.y(value);
        out.line(format_args!(
            "<path d=\"M0 {y:.1}H{WIDTH}\" stroke=\"#ddd\"/><text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y + 4.0,
            Short(value)
        ))?;
    }
    for (i, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points = Points(&axes, curve.points);
        out.line(format_args!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{points}\"/>"))?;
        let y = 12.0 + 16.0 * i as f64;
        out.line(format_args!("<text x=\"{}\" y=\"{y}\" fill=\"{colour}\">{}</text>", WIDTH + 8.0, Escaped(curve.name)))?;
    }
    Ok(())
}

/// A curve's points.
struct Points<'a>(&'a Axes, &'a [(u64, f64)]);

impl std::fmt::Display for Points<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.1.iter().filter(|(_, value)| is_shown(*value)).try_for_each(|(step, value)| write!(f, "{:.1},{:.1} ", self.0.x(*step as f64), self.0.y(*value)))
    }
}

/// A round number.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        // Two digits are all that a tick has.
        if (1e-3..1e4).contains(&self.0) { write!(f, "{}", (self.0 * 1e6).round() / 1e6) } else { write!(f, "{:.0e}", self.0) }
    }
}

/// A text in XML.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            // XML 1.0 has no other control characters.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => f.write_str("\u{fffd}"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_lie_where_their_values_are() {
        let points = [(0, 100.0), (5, f64::NAN), (10, 0.0), (50, 10.0), (100, 1.0)];
        let curves = [Curve { name: "a<b", points: &points }, Curve { name: "empty", points: &[] }];
        let text = svg(&[Panel { title: "loss & error", curves: &curves }]).unwrap();
        // Two decades, with a margin of 5 % at both ends: 100, 10 and 1 are evenly apart; what has no logarithm is left out.
        let [low, high] = [0.1, 2.1].map(|margin| HEIGHT * margin / 2.2);
        let wanted = format!("points=\"0.0,{low:.1} 320.0,{:.1} 640.0,{high:.1} \"", HEIGHT / 2.0);
        assert!(text.contains(&wanted), "{wanted}\n{text}");
        for part in ["loss &amp; error", "a&lt;b", ">empty<", "points=\"\"", ">50</text>", "text-anchor=\"end\">20<"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches("<g ").count(), text.matches("</g>").count());
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        let nothing = svg(&[Panel { title: "", curves: &[Curve { name: "x", points: &[(3, -1.0)] }] }, Panel { title: "", curves: &[] }]).unwrap();
        assert_eq!(nothing.matches("no values yet").count(), 2);
        // One value alone has axes too.
        let one = svg(&[Panel { title: "", curves: &[Curve { name: "x", points: &[(0, 0.3)] }] }]).unwrap();
        assert!(one.contains("points=\"0.0,110.0 \"") && !one.contains("NaN"), "{one}");
    }
}
