//! The section of the threshold: a figure of each kind of score, and what the script needs to move a threshold over them.

mod axis;
mod scale;

use std::fmt::Write;

use serde_json::{Map, Value};

pub(super) use self::scale::Scale;
use self::scale::Score;
use super::text::{escaped, grouped, percent, shell_word};
use crate::report::{content::Report, histogram::edge_text};

/// Shares of the table of thresholds, in percent.
const SHARES: [u8; 9] = [99, 95, 90, 80, 70, 50, 30, 20, 10];

/// Writes the section, if there is any kind of score.
pub(super) fn write(html: &mut String, report: &Report, scales: &[Scale<'_>]) -> std::fmt::Result {
    if scales.is_empty() {
        return Ok(());
    }
    let matching = if scales.len() > 1 { ", and the probability that they match" } else { "" };
    write!(
        html,
        "<section id=\"threshold\"><h2>Choosing a threshold</h2><p class=\"lead\">Similarity of image and caption by the \
         scorer{matching}, over all rows; each column as shares of its own rows.</p>",
    )?;
    for (n, scale) in scales.iter().enumerate() {
        if scales.len() > 1 {
            let class = if n > 0 { " class=\"spaced\"" } else { "" };
            write!(html, "<h3{class}>{}</h3>", scale.label)?;
        }
        html.push_str("<div class=\"plot\">");
        scale.chart().write_figure(html)?;
        html.push_str("</div>");
    }
    write_controls(html, report, scales)?;
    for scale in scales {
        scale.chart().write_table(html)?;
    }
    for scale in scales {
        write_table(html, report, (scale.thresholds, &scale.scores[0]))?;
    }
    html.push_str("</section>");
    Ok(())
}

/// Writes the slider and what follows from it; a script shows them.
fn write_controls(html: &mut String, report: &Report, scales: &[Scale<'_>]) -> std::fmt::Result {
    let has_output = report.source.output.is_some();
    let choices: Vec<&Score<'_>> = scales.iter().flat_map(|scale| scale.choices(has_output)).collect();
    let mut by = String::new();
    if choices.len() > 1 {
        by.push_str("<div class=\"field\"><label for=\"by\">Score</label><select id=\"by\">");
        for score in choices {
            write!(by, "<option value=\"{}\">{}</option>", score.name, score.choice)?;
        }
        by.push_str("</select></div>");
    }
    let (label, note) = if has_output {
        ("Command", "Writes a new dataset; the output itself is not changed.")
    } else {
        ("Flag of recaption run", "Rejects captions below it while captioning.")
    };
    write!(
        html,
        "<div data-script hidden><div class=\"slider\"><label class=\"sr\" for=\"threshold-range\">Threshold</label>\
         <input type=\"range\" id=\"threshold-range\" step=\"1\"></div>\
         <div class=\"controls\"><div class=\"field\"><label for=\"threshold-number\">Threshold</label>\
         <input type=\"number\" id=\"threshold-number\" step=\"0.001\" min=\"-1\" max=\"1\"></div>{by}\
         <p class=\"kept\" role=\"status\"><strong id=\"kept-share\"></strong> <span id=\"kept-count\"></span></p></div>\
         <div class=\"command\"><div class=\"command-head\"><span id=\"command-label\">{label}</span>\
         <button type=\"button\" id=\"copy\">Copy</button></div><pre><code id=\"command\"></code></pre>\
         <p class=\"note\">{note} <span id=\"copied\" role=\"status\"></span></p></div>\
         <div class=\"around\"><section aria-labelledby=\"above-title\"><h3 id=\"above-title\">Just above: stay</h3>\
         <ul class=\"cards compact\" id=\"above\"></ul></section>\
         <section aria-labelledby=\"below-title\"><h3 id=\"below-title\">Just below: go</h3>\
         <ul class=\"cards compact\" id=\"below\"></ul></section></div></div>"
    )
}

/// Writes the thresholds of one column for round shares, which need no script.
fn write_table(html: &mut String, report: &Report, (title, score): (&str, &Score<'_>)) -> std::fmt::Result {
    let (column, by) = (score.histogram, score.by);
    let all = column.scored + column.missing;
    write!(
        html,
        "<details class=\"numbers\"><summary>{title}</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{title}\"><table><thead><tr><th scope=\"col\" class=\"n\">at least</th><th scope=\"col\" class=\"n\">threshold</th>\
         <th scope=\"col\" class=\"n\">captions that stay</th><th scope=\"col\" class=\"n\">share</th></tr></thead><tbody>"
    )?;
    for share in SHARES {
        let Some(bin) = column.bin_keeping(f64::from(share) / 100.0) else { continue };
        let kept = column.at_least(bin);
        write!(
            html,
            "<tr><th scope=\"row\" class=\"n\">{share} %</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            edge_text(bin),
            grouped(kept),
            percent(kept, all)
        )?;
    }
    html.push_str("</tbody></table></div>");
    if let Some(output) = &report.source.output {
        write!(
            html,
            "<p class=\"note\">An exact share: <code>recaption filter {} --keep-top 0.3{by} --to {}</code></p>",
            escaped(&shell_word(output)),
            escaped(&shell_word(&format!("{}-best", output.trim_end_matches('/'))))
        )?;
    }
    html.push_str("</details>");
    Ok(())
}

/// Returns what the script needs of the columns, by their names; `null` if there are none.
pub(super) fn data(report: &Report, scales: &[Scale<'_>]) -> Value {
    let mut data = Map::new();
    scales.iter().for_each(|scale| scale.add_data(report.source.output.is_some(), &mut data));
    if data.is_empty() { Value::Null } else { data.into() }
}
