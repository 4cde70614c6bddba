//! Groups of horizontal bars as an SVG picture, light enough for a page of Markdown and readable in the dark.

use std::fmt::Write;

/// Width of the picture and of the names at its left, in pixels.
const WIDTH: f64 = 900.0;
const NAMES: f64 = 250.0;
/// Room for a value at the right of the longest bar.
const VALUES: f64 = 80.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const HEAD: f64 = 64.0;
/// Colours that stay apart for those who see few (after Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// A picture of values by group and series; what has no value has no bar.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// What it shows, with the unit.
    pub title: String,
    /// Names of the series, one colour each.
    pub series: Vec<String>,
    /// Names of the groups with a value for each series.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

impl BarChart {
    /// The picture.
    pub fn svg(&self) -> String {
        let bars = |values: &[Option<f64>]| values.iter().flatten().filter(|v| v.is_finite()).count() as f64;
        let height = HEAD + self.groups.iter().map(|(_, v)| bars(v) * BAR + GAP).sum::<f64>();
        let all = self.groups.iter().flat_map(|(_, values)| values.iter().flatten());
        let most = all.copied().filter(|v| v.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" \
             fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, (12.0, 22.0), "font-size=\"15\"", &self.title);
        let mut x = 12.0;
        for (name, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let _ = writeln!(svg, "<rect x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
            text(&mut svg, (x + 18.0, 46.0), "", name);
            x += 34.0 + 7.0 * name.chars().count() as f64;
        }
        let mut y = HEAD;
        for (name, values) in &self.groups {
            let middle = y + bars(values) * BAR / 2.0 + 4.0;
            text(&mut svg, (NAMES - 8.0, middle), "text-anchor=\"end\"", name);
            for (value, colour) in values.iter().zip(COLOURS.iter().cycle()) {
                let Some(value) = value.filter(|v| v.is_finite()) else { continue };
                let width = (WIDTH - NAMES - VALUES) * (value / most).max(0.0);
                let (top, thick) = (y + 1.0, BAR - 2.0);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{NAMES}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{thick}\" fill=\"{colour}\"/>"
                );
                text(&mut svg, (NAMES + width + 6.0, y + 12.0), "", &format!("{value:.0}"));
                y += BAR;
            }
            y += GAP;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), attributes: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"#222222\" {attributes}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: Vec<Option<f64>>) -> String {
        let series = vec!["one".to_owned(), "two".to_owned()];
        BarChart { title: "a < b".to_owned(), series, groups: vec![("g".to_owned(), values)] }.svg()
    }

    #[test]
    fn the_longest_bar_fills_the_room_and_the_others_are_in_proportion() {
        let svg = chart(vec![Some(50.0), Some(200.0)]);
        let widths = [(WIDTH - NAMES - VALUES) / 4.0, WIDTH - NAMES - VALUES];
        assert!(widths.iter().all(|w| svg.contains(&format!("width=\"{w:.1}\""))), "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }

    #[test]
    fn what_is_no_number_has_no_bar() {
        let bars = |svg: &str| svg.matches(&format!("<rect x=\"{NAMES}\"")).count();
        assert_eq!(bars(&chart(vec![Some(1.0), None])), 1);
        assert_eq!(bars(&chart(vec![Some(f64::NAN), None])), 0);
    }
}
