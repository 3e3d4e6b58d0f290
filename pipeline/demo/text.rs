//! What the terminal shows, in lines of at most [`WIDTH`] columns.

use std::fmt::Write;

use recaption_onnx::Bundled;

use super::{
    rows::{Row, Said},
    summary::{HEADINGS, Summary, notes},
};
use crate::scenes::{descriptive, short};

/// Columns of a line.
pub const WIDTH: usize = 100;
/// Pictures that are shown.
const PICTURES: usize = 6;
/// Columns of the word before a text.
const WORD: usize = 15;
/// Columns before a text: the word, a similarity with its sign, a space.
const INDENT: usize = WORD + 7;
/// Columns of a teller's name.
const NAME: usize = 18;

/// A few pictures: alt text, short and descriptive caption, each with its similarity; and the truth where that is another.
pub fn story(rows: &[Row]) -> String {
    let mut text = String::from("\nalt text -> short -> descriptive, with similarity\n");
    for row in rows.iter().take(PICTURES) {
        let truth = descriptive(&row.scene);
        let _ = writeln!(text, "\n{}", row.key);
        line(&mut text, "alt text", Some(&row.alt), &row.alt.text);
        for (word, said, truth) in
            [("short", &row.short, &short(&row.scene)), ("descriptive", &row.descriptive, &truth)]
        {
            let exact = if said.text == *truth { " (exact)" } else { "" };
            line(&mut text, &format!("-> {word}"), Some(said), &format!("{}{exact}", said.text));
        }
        if row.descriptive.text != truth {
            line(&mut text, "   the truth", None, &truth);
        }
    }
    text
}

fn line(text: &mut String, word: &str, said: Option<&Said>, words: &str) {
    let similarity = said.map_or_else(String::new, |said| format!("{:.3}", said.similarity));
    let _ = write!(text, "{word:<WORD$}{similarity:>6} ");
    let mut column = INDENT;
    for (i, word) in words.split(' ').enumerate() {
        let width = word.chars().count() + usize::from(i > 0);
        if i > 0 && column + width > WIDTH {
            let _ = write!(text, "\n{:INDENT$}{word}", "");
            column = INDENT + width - 1;
        } else {
            let _ = write!(text, "{}{word}", if i > 0 { " " } else { "" });
            column += width;
        }
    }
    text.push('\n');
}

/// The accuracy of every teller.
pub fn table(rows: &[Row], summaries: &[Summary]) -> String {
    let mut text = format!("\n{:<NAME$}", format!("{} scenes, in %", rows.len()));
    // A column has the width of its heading, and room.
    let width = |heading: &str| heading.len().max(6) + 2;
    HEADINGS.iter().for_each(|heading| {
        let _ = write!(text, "{heading:>0$}", width(heading));
    });
    for summary in summaries {
        let _ = write!(text, "\n{:<NAME$}", summary.name);
        for (cell, heading) in summary.cells().iter().zip(HEADINGS) {
            let _ = write!(text, "{cell:>0$}", width(heading));
        }
    }
    text.push('\n');
    for note in notes(rows, Bundled::Base.name()) {
        let _ = write!(text, "\n{note}");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::sample;

    #[test]
    fn lines_stay_within_the_width_and_tell_what_is_exact() {
        let said = |text: String| Said { text, similarity: -0.123_456 };
        let row = |index: u64| {
            let (scene, alt_text) = sample(1, index);
            let (alt, short, truth) =
                (said(alt_text.text(&scene)), said(short(&scene)), said(descriptive(&scene)));
            let base = said("a red".to_owned());
            Row { key: format!("{index:011}"), scene, alt, base, short, descriptive: truth }
        };
        for first in 0..50 {
            let mut rows: Vec<Row> = (first..first + 3).map(row).collect();
            rows[1].descriptive = said(format!("a {} b", "x".repeat(90)));
            let (story, table) = (story(&rows), table(&rows, &Summary::of_all(&rows)));
            let lines: Vec<&str> = story.lines().chain(table.lines()).collect();
            let long = |line: &&&str| line.chars().count() > WIDTH && !line.contains("xxx");
            assert_eq!(lines.iter().find(long), None);
            assert_eq!(
                (story.matches("(exact)").count(), story.matches("the truth").count()),
                (5, 1),
                "{story}"
            );
            assert!(table.contains("similarity  colour") && table.contains("-0.123"), "{table}");
        }
    }
}
