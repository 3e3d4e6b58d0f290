//! The demo's table: accuracy of each source of captions.

use super::{
    rows::DemoRow,
    sources::{CaptionSource, SOURCES},
};
use crate::scenes::{Accuracy, short};

/// The table's columns after the source's name.
pub(super) const HEADINGS: [&str; 8] =
    ["similarity", "colour", "shape", "size", "place", "background", "count", "exact"];

/// Accuracy of one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableRow {
    /// Name of the source.
    pub(super) name: &'static str,
    similarity: f64,
    accuracy: Accuracy,
}

impl TableRow {
    /// Computes the row of every source.
    pub(super) fn of_all_sources(rows: &[DemoRow]) -> Vec<Self> {
        SOURCES.iter().map(|source| Self::new(*source, rows)).collect()
    }

    fn new(source: CaptionSource, rows: &[DemoRow]) -> Self {
        let mut accuracy = Accuracy::default();
        rows.iter().for_each(|row| accuracy.add(&row.scene, &(source.caption)(row).text));
        let sum: f64 = rows.iter().map(|row| f64::from((source.caption)(row).similarity)).sum();
        Self { name: source.name, similarity: sum / rows.len().max(1) as f64, accuracy }
    }

    /// Formats the cells under [`HEADINGS`]: mean similarity, then percentages. Colour, shape, size and place are of all
    /// objects, the others of all captions.
    pub(super) fn cells(&self) -> [String; HEADINGS.len()] {
        let a = &self.accuracy;
        let percent = |n: usize, of: usize| format!("{:.1}", 100.0 * n as f64 / of.max(1) as f64);
        [
            format!("{:.3}", self.similarity),
            percent(a.colour, a.objects),
            percent(a.shape, a.objects),
            percent(a.size, a.objects),
            percent(a.place, a.objects),
            percent(a.background, a.captions),
            percent(a.count, a.captions),
            percent(a.short + a.descriptive, a.captions),
        ]
    }
}

/// Returns the notes below the table, a paragraph each.
pub(super) fn notes(rows: &[DemoRow], scorer: &str) -> [String; 4] {
    let mut accuracy = Accuracy::default();
    rows.iter().for_each(|row| accuracy.add(&row.scene, &short(&row.scene)));
    let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
    let objects = percent(accuracy.colour, accuracy.objects);
    let scenes = percent(accuracy.count, accuracy.captions);
    [
        format!("Similarity: cosine by {scorer}, for its own captions too; comparable on drawn scenes only."),
        "Exact: equal word for word to the true short or descriptive caption.".to_owned(),
        format!(
            "A true short caption names one object: {objects:.1} % of colours and shapes, {scenes:.1} % of counts. An exact short \
             caption may therefore score below an alt text that names more."
        ),
        "The bundled captioners know drawn scenes only: on photographs they write nonsense, and their own similarity stays \
         high. Use a captioner trained on photographs there."
            .to_owned(),
    ]
}
