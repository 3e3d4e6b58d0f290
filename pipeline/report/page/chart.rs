//! Histograms of two columns on one axis: an SVG without text, and the same numbers as a table.

use std::fmt::Write;

use super::text::{escaped, grouped};

/// Width and height of the drawing's own coordinates; it is stretched to its place.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 200.0;

/// Two columns over the same bins.
pub(super) struct Chart<'a> {
    /// What the figure shows, for those who do not see it.
    pub(super) label: &'a str,
    /// Name of a bin in the table's heading.
    pub(super) bin_name: &'a str,
    /// Names of the bins.
    pub(super) bins: Vec<String>,
    /// Counts of the first column (bars) and of the second (line), with their names.
    pub(super) series: [(&'a str, Vec<u64>); 2],
    /// Marks of the axis, evenly spaced from its begin to its end.
    pub(super) marks: Vec<String>,
    /// Id of the line that a script moves, if it has one.
    pub(super) cut: Option<&'a str>,
}

impl Chart<'_> {
    /// Writes the figure alone.
    pub(super) fn write_figure(&self, html: &mut String) -> std::fmt::Result {
        let [first, second] = &self.series;
        let highest = |(_, counts): &(&str, Vec<u64>)| counts.iter().copied().max().unwrap_or(0);
        let has_second = total(second) > 0;
        write!(
            html,
            "<figure class=\"chart\"><div class=\"legend\"><span class=\"key bars\">{}</span>",
            first.0
        )?;
        if has_second {
            write!(html, "<span class=\"key line\">{}</span>", second.0)?;
        }
        write!(
            html,
            "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
            escaped(self.label)
        )?;
        // Columns of different numbers of rows are compared by their shares.
        let top = [first, second].map(|series| share(highest(series), total(series)));
        let top = top[0].max(top[1]).max(f64::MIN_POSITIVE);
        let outline = |series: &(&str, Vec<u64>)| self.outline(series, top);
        let (bars, _) = outline(first);
        write!(html, "<path class=\"bars\" d=\"M0 {HEIGHT}{bars}V{HEIGHT}Z\"/>")?;
        if has_second {
            let (line, start) = outline(second);
            write!(html, "<path class=\"line\" d=\"M0 {start:.1}{line}\"/>")?;
        }
        if let Some(cut) = self.cut {
            write!(
                html,
                "<rect class=\"dropped\" id=\"{cut}-dropped\" width=\"0\" height=\"{HEIGHT}\"/><line class=\"cut\" id=\"{cut}\" y2=\"{HEIGHT}\"/>"
            )?;
        }
        html.push_str("</svg><div class=\"axis\" aria-hidden=\"true\">");
        for mark in &self.marks {
            write!(html, "<span>{}</span>", escaped(mark))?;
        }
        html.push_str("</div></figure>");
        Ok(())
    }

    /// Returns the steps of a column and the height of the first.
    fn outline(&self, series: &(&str, Vec<u64>), top: f64) -> (String, f64) {
        let (mut path, all) = (String::new(), total(series));
        let step = WIDTH / self.bins.len().max(1) as f64;
        let mut start = HEIGHT;
        for (i, count) in series.1.iter().enumerate() {
            let y = HEIGHT - (HEIGHT - 4.0) * share(*count, all) / top;
            if i == 0 {
                start = y;
            }
            let _ = write!(path, "V{y:.1}H{:.1}", step * (i + 1) as f64);
        }
        (path, start)
    }

    /// Writes the numbers as a table, folded.
    pub(super) fn write_table(&self, html: &mut String) -> std::fmt::Result {
        let [first, second] = &self.series;
        let has_second = total(second) > 0;
        write!(
            html,
            "<details class=\"numbers\"><summary>{} as a table</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
             aria-label=\"{} as a table\"><table><thead><tr><th scope=\"col\">{}</th><th scope=\"col\" class=\"n\">{}</th>",
            escaped(self.label),
            escaped(self.label),
            escaped(self.bin_name),
            first.0
        )?;
        if has_second {
            write!(html, "<th scope=\"col\" class=\"n\">{}</th>", second.0)?;
        }
        html.push_str("</tr></thead><tbody>");
        for (i, name) in self.bins.iter().enumerate() {
            let (a, b) = (first.1.get(i).copied().unwrap_or(0), second.1.get(i).copied().unwrap_or(0));
            if a + b == 0 {
                continue;
            }
            write!(html, "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td>", escaped(name), grouped(a))?;
            if has_second {
                write!(html, "<td class=\"n\">{}</td>", grouped(b))?;
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div></details>");
        Ok(())
    }
}

fn total((_, counts): &(&str, Vec<u64>)) -> u64 {
    counts.iter().sum()
}

fn share(n: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { n as f64 / of as f64 }
}
