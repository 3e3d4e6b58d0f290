//! What a preview prints: examples, totals, and where the page is. Lines fit 80 columns, but for paths and errors.

use std::fmt::{self, Write};

use unicode_width::UnicodeWidthChar;

use super::{record::PreviewRecord, result::Preview, samples::PreviewCaption};

/// Columns of a terminal.
const COLUMNS: usize = 80;
/// Columns of the words before a caption.
const INDENT: usize = 10;
/// Columns of a score after a caption, with the space before it.
const SCORE: usize = 8;
/// Lines of a caption, at most.
const LINES: usize = 3;
/// Examples that are printed.
const EXAMPLES: usize = 8;
/// Rejects that are printed for each reason.
const REJECTS_PER_REASON: usize = 2;

/// Returns a number of bytes in a unit that suits it.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return format!("{n} bytes");
    }
    let (mut value, mut unit) = (n as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns the facts of the page.
pub(super) fn facts(record: &PreviewRecord) -> Vec<(String, String)> {
    let facts = [
        ("samples", record.images.to_string()),
        ("images per second", format!("{:.1}", record.images_per_second)),
        ("read", bytes_read(record)),
        ("shards", record.shards.to_string()),
        ("seed", record.seed.to_string()),
        ("provider", record.provider.clone()),
        ("date", record.date.clone()),
    ];
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn bytes_read(record: &PreviewRecord) -> String {
    format!("{} of {}", bytes(record.bytes_read), bytes(record.input_bytes))
}

/// Shortens a text to some columns of a terminal, in one line.
fn fit(text: &str, columns: usize) -> String {
    let width = |c: char| c.width().unwrap_or(1);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().map(width).sum::<usize>() <= columns {
        return text;
    }
    let (mut shortened, mut used) = (String::new(), 3);
    for c in text.chars() {
        used += width(c);
        if used > columns {
            break;
        }
        shortened.push(c);
    }
    shortened + "..."
}

/// Breaks a text between words into lines of some columns, and shortens it to the last of at most `most` lines.
fn wrap(text: &str, columns: usize, most: usize) -> Vec<String> {
    let width = |text: &str| text.chars().map(|c| c.width().unwrap_or(1)).sum::<usize>();
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let (is_last, last) = (lines.len() == most, lines.last_mut());
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if is_last || width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| fit(&line, columns)).collect()
}

/// Pads a text that [`fit`]s to some columns.
fn pad(text: &str, columns: usize) -> String {
    let text = fit(text, columns);
    let used: usize = text.chars().map(|c| c.width().unwrap_or(1)).sum();
    text + &" ".repeat(columns.saturating_sub(used))
}

fn score(similarity: Option<f32>) -> String {
    similarity.map_or(String::new(), |similarity| format!("{similarity:>SCORE$.3}"))
}

/// Returns the last part of a shard's URL, and what follows it in a part of a list.
fn name_of(shard: &str) -> &str {
    let whole = shard.trim_end_matches('/');
    whole.rsplit('/').next().unwrap_or(whole)
}

/// Returns at most `most` of `items`, evenly spaced.
fn spaced<T>(items: &[T], most: usize) -> impl Iterator<Item = &T> {
    let count = items.len().min(most);
    (0..count).filter_map(move |at| items.get(at * items.len() / count))
}

fn example(text: &mut String, caption: &PreviewCaption) -> fmt::Result {
    let width = COLUMNS - INDENT - SCORE;
    let place = format!("{}  {}", name_of(&caption.shard), caption.key);
    writeln!(text, "{}", fit(&place, COLUMNS))?;
    let texts = [
        ("original", caption.org_caption.as_deref().unwrap_or("-"), caption.org_similarity),
        ("caption", &caption.caption, Some(caption.similarity)),
    ];
    for (name, words, similarity) in texts {
        let lines = wrap(words, width, LINES);
        for (number, line) in lines.iter().enumerate() {
            let (name, score) = if number == 0 { (name, score(similarity)) } else { ("", String::new()) };
            let line = format!("{name:<INDENT$}{}{score}", pad(line, width));
            writeln!(text, "{}", line.trim_end())?;
        }
    }
    for (name, what, itm) in [
        ("org_itm", "probability that image and original caption match", caption.org_itm),
        ("itm", "probability that image and caption match", caption.itm),
    ] {
        if itm.is_some() {
            writeln!(text, "{name:<INDENT$}{}{}", pad(what, width), score(itm))?;
        }
    }
    writeln!(text)
}

impl Preview {
    /// Writes the totals.
    fn totals(&self, text: &mut String) -> fmt::Result {
        let record = &self.record;
        let (images, captioned, rejected) = (record.images, record.captioned, record.rejected);
        writeln!(text, "samples   {images} read = {captioned} captioned + {rejected} rejected")?;
        for (reason, n) in &record.reasons {
            writeln!(text, "          {n:>8} {reason}")?;
            let with_reason: Vec<_> = self.rejects.iter().filter(|r| r.reason == reason).collect();
            for reject in spaced(&with_reason, REJECTS_PER_REASON) {
                let what = format!("{}  {}: {}", name_of(&reject.shard), reject.key, reject.detail);
                writeln!(text, "                   {}", fit(&what, COLUMNS - 19))?;
            }
        }
        let (seconds, rate) = (record.seconds, record.images_per_second);
        writeln!(text, "time      {seconds:.1} s, {rate:.1} images/s, models loaded before")?;
        writeln!(text, "read      {}, {} shards", bytes_read(record), record.shards)?;
        for (shard, what) in &self.shards_damaged {
            writeln!(text, "damaged   {shard}: {what}")?;
        }
        for (shard, what) in &record.shards_failed {
            writeln!(text, "failed    {shard}: {what}")?;
        }
        writeln!(text, "page      {}", self.page.display())
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for caption in spaced(&self.captions, EXAMPLES) {
            example(&mut text, caption)?;
        }
        if self.captions.len() > EXAMPLES {
            writeln!(text, "examples  {EXAMPLES} of {} captions; all are on the page", self.captions.len())?;
        }
        self.totals(&mut text)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_fitted_by_their_columns() {
        assert_eq!(fit("a  red\ncircle", 12), "a red circle");
        assert_eq!(fit("a red circle", 9), "a red ...");
        assert_eq!(fit("赤い丸の写真", 12), "赤い丸の写真");
        assert_eq!(fit("赤い丸の写真", 11), "赤い丸の...");
        assert_eq!(pad("赤い", 6), "赤い  ");
        assert_eq!(wrap("a red circle on the left", 9, 2), ["a red", "circle..."]);
        assert_eq!(wrap("a red circle", 12, 3), ["a red circle"]);
        assert_eq!(wrap("", 12, 3), [""]);
    }

    #[test]
    fn bytes_have_a_unit_that_suits() {
        let texts = [0, 999, 1000, 999_949, 999_950, 1_250_000_000].map(bytes);
        assert_eq!(texts, ["0 bytes", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1.2 GB"]);
    }

    #[test]
    fn examples_are_spaced_evenly() {
        let numbers: Vec<u32> = (0..100).collect();
        assert_eq!(spaced(&numbers, 4).copied().collect::<Vec<_>>(), [0, 25, 50, 75]);
        assert_eq!(spaced(&numbers[..2], 4).copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(spaced::<u32>(&[], 4).count(), 0);
    }

    #[test]
    fn names_are_the_last_part_of_a_url() {
        let names = ["s3://b/a/00000.tar", "s3://b/photos/", "https://x/list.csv#part=3"].map(name_of);
        assert_eq!(names, ["00000.tar", "photos", "list.csv#part=3"]);
    }
}
