//! Totals and tables, which need no script.

use std::fmt::Write;

use super::{
    chart::Chart,
    text::{escaped, grouped, percent},
};
use crate::report::{
    content::Report,
    frequent::Frequent,
    source::ReportReject,
    statistics::SIDE_CLASSES,
    texts::{MAX_LENGTH, TextStatistics, clipped},
};

/// Rows of a table of frequent values.
const TOP: usize = 25;
/// Examples of a reason in the table of rejects.
const EXAMPLES: usize = 5;
/// Characters of a text in a table.
const MAX_CHARACTERS: usize = 300;
/// Characters of a reason, a key or a value of the configuration.
const MAX_NAME: usize = 2000;

/// Writes the section of totals and facts.
pub(super) fn write_totals(html: &mut String, report: &Report) -> std::fmt::Result {
    let statistics = &report.statistics;
    let (captions, rejects) = (statistics.captions, statistics.rejects());
    let mean = |mean: Option<f64>| mean.map_or_else(|| "\u{2013}".to_owned(), |mean| format!("{mean:.3}"));
    let totals = [
        ("captions", grouped(captions)),
        ("rejects", grouped(rejects)),
        ("of all samples captioned", percent(captions, captions + rejects)),
        ("mean similarity", mean(statistics.similarity.mean())),
        ("mean similarity of originals", mean(statistics.org_similarity.mean())),
        ("more similar than their original", percent(statistics.improved, statistics.compared)),
    ];
    let itm = statistics.itm.mean().map(|itm| ("mean matching probability (itm)", mean(Some(itm))));
    html.push_str("<section id=\"totals\"><h2 class=\"sr\">Totals</h2><dl class=\"totals\">");
    for (name, value) in totals.into_iter().chain(itm) {
        write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
    }
    html.push_str("</dl>");
    let facts = report.source.facts.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    write_list(html, facts)?;
    html.push_str("</section>");
    Ok(())
}

fn write_list<'a>(html: &mut String, items: impl Iterator<Item = (&'a str, &'a str)>) -> std::fmt::Result {
    let mut items = items.peekable();
    if items.peek().is_none() {
        return Ok(());
    }
    html.push_str("<dl class=\"facts\">");
    for (name, value) in items {
        let [name, value] = [name, value].map(|text| escaped(clipped(text, MAX_NAME)));
        write!(html, "<dt>{name}</dt><dd dir=\"auto\">{value}</dd>")?;
    }
    html.push_str("</dl>");
    Ok(())
}

/// Writes rejects by reason, the most frequent first, with examples.
pub(super) fn write_rejects(html: &mut String, report: &Report) -> std::fmt::Result {
    let all = report.statistics.rejects();
    html.push_str("<section id=\"rejects\"><h2>Rejects</h2>");
    if all == 0 {
        html.push_str("<p class=\"lead\">None: every sample has a caption.</p></section>");
        return Ok(());
    }
    write!(
        html,
        "<p class=\"lead\">{} samples have no caption.</p><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Rejects by reason\">\
         <table><thead><tr><th scope=\"col\">reason</th><th scope=\"col\" class=\"n\">samples</th><th scope=\"col\" class=\"n\">of rejects</th>\
         <th scope=\"col\" class=\"n\">of all samples</th><td class=\"meter\"></td></tr></thead><tbody>",
        grouped(all)
    )?;
    let mut reasons: Vec<(&String, u64)> = report.statistics.reasons.iter().map(|(r, n)| (r, *n)).collect();
    reasons.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    for (reason, n) in &reasons {
        write!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            escaped(clipped(reason, MAX_NAME)),
            grouped(*n),
            percent(*n, all),
            percent(*n, all + report.statistics.captions)
        )?;
        write_meter(html, *n, reasons[0].1)?;
    }
    html.push_str("</tbody></table></div>");
    for (reason, _) in &reasons {
        let examples: Vec<&ReportReject> =
            report.rejects.iter().filter(|reject| reject.reason == **reason).take(EXAMPLES).collect();
        if examples.is_empty() {
            continue;
        }
        let reason = escaped(clipped(reason, MAX_NAME));
        write!(
            html,
            "<details class=\"numbers\"><summary>Examples of {reason}</summary><ul class=\"examples\">"
        )?;
        examples.into_iter().try_for_each(|reject| write_reject(html, reject))?;
        html.push_str("</ul></details>");
    }
    html.push_str("</section>");
    Ok(())
}

fn write_reject(html: &mut String, reject: &ReportReject) -> std::fmt::Result {
    let short = |text: &str| escaped(clipped(text, MAX_CHARACTERS));
    write!(html, "<li><div class=\"quote\" dir=\"auto\">{}</div>", short(&reject.detail))?;
    if let Some(caption) = &reject.caption {
        write!(html, "<div class=\"quote\" dir=\"auto\">\u{201c}{}\u{201d}", short(caption))?;
        if let Some(similarity) = reject.similarity {
            write!(html, " {similarity:.3}")?;
        }
        html.push_str("</div>");
    }
    write!(
        html,
        "<div class=\"where\" dir=\"auto\">{} in {}</div></li>",
        short(&reject.key),
        short(&reject.shard)
    )
}

/// Writes a cell with a bar, and ends the row.
fn write_meter(html: &mut String, n: u64, of: u64) -> std::fmt::Result {
    let width = if of == 0 { 0.0 } else { 100.0 * n as f64 / of as f64 };
    write!(
        html,
        "<td class=\"meter\"><svg viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect width=\"{width:.1}\" height=\"1\"/></svg></td></tr>"
    )
}

/// Writes lengths, words, openings and repetitions of both columns of captions.
pub(super) fn write_texts(html: &mut String, report: &Report) -> std::fmt::Result {
    let (synthetic, original) = (&report.statistics.synthetic, &report.statistics.original);
    if synthetic.captions == 0 {
        return Ok(());
    }
    html.push_str("<section id=\"texts\"><h2>Captions</h2>");
    let mean = |texts: &TextStatistics| {
        let number =
            |mean: Option<f64>| mean.map_or_else(|| "\u{2013}".to_owned(), |mean| format!("{mean:.1}"));
        format!("{} words, {} characters", number(texts.mean_words()), number(texts.mean_characters()))
    };
    write!(html, "<p class=\"lead\">Mean length of chosen captions: {}", mean(synthetic))?;
    if original.captions > 0 {
        write!(html, "; of original captions: {}", mean(original))?;
    }
    html.push_str(".</p>");
    let lengths = lengths(synthetic, original);
    lengths.write_figure(html)?;
    lengths.write_table(html)?;
    html.push_str("<h3 class=\"spaced\">Most frequent words</h3><p class=\"note\">Captions that contain the word, and how many of the other captions do.</p><div class=\"columns\">");
    let columns = [
        ("chosen captions", synthetic, "original", original),
        ("original captions", original, "chosen", synthetic),
    ];
    for (title, texts, other_name, other) in columns {
        write_frequent(html, (title, "word"), texts, (other_name, other), |texts| &texts.words)?;
    }
    html.push_str("</div><h3>Most frequent openings</h3><p class=\"note\">The first three words: a captioner\u{2019}s habits.</p><div class=\"columns\">");
    for (title, texts, other_name, other) in columns {
        write_frequent(html, (title, "opening"), texts, (other_name, other), |texts| &texts.openings)?;
    }
    html.push_str("</div><h3>Repeated captions</h3><div class=\"columns\">");
    for (title, texts, ..) in columns {
        write_repeated(html, title, texts)?;
    }
    html.push_str("</div></section>");
    Ok(())
}

fn lengths<'a>(synthetic: &TextStatistics, original: &TextStatistics) -> Chart<'a> {
    let used = |texts: &TextStatistics| texts.lengths.iter().rposition(|n| *n > 0).unwrap_or(0);
    let longest = used(synthetic).max(used(original));
    let step = [1, 2, 5, 10, 20, 50].into_iter().find(|step| longest / step < 6).unwrap_or(50);
    let end = (longest + 1).div_ceil(step) * step;
    let bins =
        |texts: &TextStatistics| (0..end).map(|n| texts.lengths.get(n).copied().unwrap_or(0)).collect();
    let name = |n: usize| if n == MAX_LENGTH { format!("{n} or more") } else { n.to_string() };
    Chart {
        label: "Caption lengths in words",
        bin_name: "words",
        bins: (0..end).map(name).collect(),
        series: [("chosen captions", bins(synthetic)), ("original captions", bins(original))],
        marks: (0..=end).step_by(step).map(|n| n.to_string()).collect(),
        cut: None,
    }
}

/// Writes the most frequent words or openings, with their frequency in the other captions.
fn write_frequent(
    html: &mut String,
    (title, what): (&str, &str),
    texts: &TextStatistics,
    (other_name, other): (&str, &TextStatistics),
    counter: fn(&TextStatistics) -> &Frequent<Box<str>>,
) -> std::fmt::Result {
    if texts.captions == 0 {
        return Ok(());
    }
    let top = counter(texts).top(TOP);
    let at_least = if counter(texts).is_exact() { "" } else { "at least, " };
    write!(
        html,
        "<table><caption class=\"sr\">Most frequent {what}s of {title}</caption><thead><tr><th scope=\"col\">{what} in {title}</th>\
         <th scope=\"col\" class=\"n\">{at_least}captions</th><th scope=\"col\" class=\"n\">share</th>"
    )?;
    if other.captions > 0 {
        write!(html, "<th scope=\"col\" class=\"n\">{other_name}</th>")?;
    }
    html.push_str("<td class=\"meter\"></td></tr></thead><tbody>");
    for (word, n) in &top {
        write!(
            html,
            "<tr><th scope=\"row\" dir=\"auto\">{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            escaped(word),
            grouped(*n),
            percent(*n, texts.captions)
        )?;
        if other.captions > 0 {
            let same = counter(other).count(word.as_ref());
            write!(html, "<td class=\"n\">{}</td>", percent(same, other.captions))?;
        }
        write_meter(html, *n, top[0].1)?;
    }
    html.push_str("</tbody></table>");
    Ok(())
}

fn write_repeated(html: &mut String, title: &str, texts: &TextStatistics) -> std::fmt::Result {
    if texts.captions == 0 {
        return Ok(());
    }
    let at_least = if texts.knows_all_repetitions() { "" } else { "at least " };
    write!(
        html,
        "<div><p>{at_least}{} of {} {title} ({}) repeat an earlier one.</p>",
        grouped(texts.repetitions),
        grouped(texts.captions),
        percent(texts.repetitions, texts.captions)
    )?;
    let top = texts.repeated.top(TOP);
    if !top.is_empty() {
        write!(
            html,
            "<table><caption class=\"sr\">Repeated {title}</caption><thead><tr><th scope=\"col\">repeated caption</th>\
             <th scope=\"col\" class=\"n\">{at_least}times</th></tr></thead><tbody>"
        )?;
        for (caption, n) in &top {
            write!(
                html,
                "<tr><th scope=\"row\" dir=\"auto\">{}</th><td class=\"n\">{}</td></tr>",
                escaped(caption),
                grouped(n + 1)
            )?;
        }
        html.push_str("</tbody></table>");
    }
    html.push_str("</div>");
    Ok(())
}

/// Writes the sizes of images.
pub(super) fn write_images(html: &mut String, report: &Report) -> std::fmt::Result {
    let statistics = &report.statistics;
    let all = statistics.captions;
    if all == 0 {
        return Ok(());
    }
    let megapixels = statistics.pixels as f64 / all as f64 / 1e6;
    write!(
        html,
        "<section id=\"images\"><h2>Images</h2><p class=\"lead\">Sizes of captioned images as stored, {megapixels:.2} megapixels on average.</p>\
         <div class=\"columns\"><table><caption class=\"sr\">Images by shorter side</caption><thead><tr><th scope=\"col\">shorter side, pixels</th>\
         <th scope=\"col\" class=\"n\">images</th><th scope=\"col\" class=\"n\">share</th><td class=\"meter\"></td></tr></thead><tbody>"
    )?;
    let most = statistics.sides.iter().copied().max().unwrap_or(0);
    for (i, n) in statistics.sides.iter().enumerate() {
        let name = match (i.checked_sub(1).map(|i| SIDE_CLASSES[i]), SIDE_CLASSES.get(i)) {
            (None, Some(high)) => format!("below {high}"),
            (Some(low), Some(high)) => format!("{low} to {}", high - 1),
            (low, None) => format!("{} and more", low.unwrap_or(0)),
        };
        write!(
            html,
            "<tr><th scope=\"row\">{name}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            grouped(*n),
            percent(*n, all)
        )?;
        write_meter(html, *n, most)?;
    }
    let at_least = if statistics.sizes.is_exact() { "" } else { "at least, " };
    write!(
        html,
        "</tbody></table><table><caption class=\"sr\">Most frequent sizes</caption><thead><tr><th scope=\"col\">most frequent sizes</th>\
         <th scope=\"col\" class=\"n\">{at_least}images</th><th scope=\"col\" class=\"n\">share</th><td class=\"meter\"></td></tr></thead><tbody>"
    )?;
    let top = statistics.sizes.top(SIDE_CLASSES.len() + 1);
    for (size, n) in &top {
        write!(
            html,
            "<tr><th scope=\"row\">{size}</th><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            grouped(*n),
            percent(*n, all)
        )?;
        write_meter(html, *n, top[0].1)?;
    }
    html.push_str("</tbody></table></div></section>");
    Ok(())
}

/// Writes the configuration and the digests.
pub(super) fn write_configuration(html: &mut String, report: &Report) -> std::fmt::Result {
    html.push_str("<section id=\"configuration\"><h2>Configuration</h2>");
    if report.source.configuration.is_empty() && report.source.digests.is_empty() {
        html.push_str("<p class=\"lead\">Not recorded.</p>");
    }
    fn pairs<'a>((name, value): (&'a String, &'a String)) -> (&'a str, &'a str) {
        (name.as_str(), value.as_str())
    }
    if !report.source.digests.is_empty() {
        html.push_str("<h3>Digests</h3>");
        write_list(html, report.source.digests.iter().map(pairs))?;
    }
    if !report.source.configuration.is_empty() {
        html.push_str("<h3 class=\"spaced\">Keys that change rows</h3>");
        write_list(html, report.source.configuration.iter().map(pairs))?;
    }
    html.push_str("</section>");
    Ok(())
}
