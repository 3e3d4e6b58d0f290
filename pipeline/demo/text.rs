//! The demo's texts on the terminal, in lines of at most [`WIDTH`] columns.

use std::fmt::Write;

use recaption_onnx::Bundled;

use super::{
    rows::{DemoRow, ScoredCaption},
    table::{HEADINGS, TableRow, notes},
};
use crate::scenes::{descriptive, short};

/// Largest number of columns of a line.
const WIDTH: usize = 100;
/// Number of images that are shown.
const EXAMPLES: usize = 6;
/// Columns of the label before a caption.
const LABEL: usize = 15;
/// Columns before a caption: the label, a similarity with its sign, a space.
const INDENT: usize = LABEL + 7;
/// Columns of a source's name.
const NAME: usize = 18;

/// Formats a few images: alt text, short and descriptive caption, each with its similarity, and the true descriptive caption where
/// the captioner's differs.
pub(super) fn examples(rows: &[DemoRow]) -> String {
    let mut text =
        String::from("\nalt text -> short -> descriptive, with similarity; (exact): the true caption\n");
    for row in rows.iter().take(EXAMPLES) {
        let truth = descriptive(&row.scene);
        let _ = writeln!(text, "\n{}", row.key);
        caption_lines(&mut text, "alt text", Some(&row.alt), &row.alt.text);
        for (label, caption, truth) in
            [("short", &row.short, &short(&row.scene)), ("descriptive", &row.descriptive, &truth)]
        {
            let exact = if caption.text == *truth { " (exact)" } else { "" };
            let words = format!("{}{exact}", caption.text);
            caption_lines(&mut text, &format!("-> {label}"), Some(caption), &words);
        }
        if row.descriptive.text != truth {
            caption_lines(&mut text, "   the truth", None, &truth);
        }
    }
    text
}

/// Appends a caption behind its label and similarity, wrapped and indented.
fn caption_lines(text: &mut String, label: &str, caption: Option<&ScoredCaption>, words: &str) {
    let similarity = caption.map_or_else(String::new, |caption| format!("{:.3}", caption.similarity));
    let _ = write!(text, "{label:<LABEL$}{similarity:>6} ");
    wrap(text, words, INDENT);
}

/// Appends words in lines of at most [`WIDTH`] columns; lines after the first begin at column `indent`, where the first one is.
fn wrap(text: &mut String, words: &str, indent: usize) {
    let mut column = indent;
    for (i, word) in words.split(' ').enumerate() {
        let width = word.chars().count() + usize::from(i > 0);
        if i > 0 && column + width > WIDTH {
            let _ = write!(text, "\n{:indent$}{word}", "");
            column = indent + width - 1;
        } else {
            let _ = write!(text, "{}{word}", if i > 0 { " " } else { "" });
            column += width;
        }
    }
    text.push('\n');
}

/// Formats the accuracy of every source, and the notes.
pub(super) fn table(rows: &[DemoRow], table: &[TableRow]) -> String {
    let mut text = format!("\n{:<NAME$}", format!("{} scenes, in %", rows.len()));
    // A column is as wide as its heading or a number, and two spaces.
    let width = |heading: &str| heading.len().max(6) + 2;
    HEADINGS.iter().for_each(|heading| {
        let _ = write!(text, "{heading:>0$}", width(heading));
    });
    for row in table {
        let _ = write!(text, "\n{:<NAME$}", row.name);
        for (cell, heading) in row.cells().iter().zip(HEADINGS) {
            let _ = write!(text, "{cell:>0$}", width(heading));
        }
    }
    text.push_str("\n\n");
    for note in notes(rows, Bundled::Base.name()) {
        wrap(&mut text, &note, 0);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::sample;

    #[test]
    fn lines_stay_within_the_width_and_mark_exact_captions() {
        let scored = |text: String| ScoredCaption { text, similarity: -0.123_456 };
        let row = |index: u64| {
            let (scene, alt_text) = sample(1, index);
            let (alt, short, truth) =
                (scored(alt_text.text(&scene)), scored(short(&scene)), scored(descriptive(&scene)));
            let base = scored("a red".to_owned());
            DemoRow { key: format!("{index:011}"), scene, alt, base, short, descriptive: truth }
        };
        for first in 0..50 {
            let mut rows: Vec<DemoRow> = (first..first + 3).map(row).collect();
            rows[1].descriptive = scored(format!("a {} b", "x".repeat(90)));
            let (examples, table) = (examples(&rows), table(&rows, &TableRow::of_all_sources(&rows)));
            let lines: Vec<&str> = examples.lines().chain(table.lines()).collect();
            let long = |line: &&&str| line.chars().count() > WIDTH && !line.contains("xxx");
            assert_eq!(lines.iter().find(long), None);
            // Five captions and the heading.
            assert_eq!(
                (examples.matches("(exact)").count(), examples.matches("the truth").count()),
                (6, 1),
                "{examples}"
            );
            assert!(table.contains("similarity  colour") && table.contains("-0.123"), "{table}");
        }
    }
}
