//! How much of the scenes each teller tells, as the rows of a table.

use super::{
    TELLERS,
    rows::{Row, Said},
};
use crate::scenes::{Accuracy, short};

/// The table's columns behind the teller's name.
pub const HEADINGS: [&str; 8] =
    ["similarity", "colour", "shape", "size", "place", "background", "count", "exact"];

/// One teller.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Who it is.
    pub name: &'static str,
    similarity: f64,
    accuracy: Accuracy,
}

impl Summary {
    /// Of every teller.
    pub fn of_all(rows: &[Row]) -> Vec<Self> {
        TELLERS.iter().map(|(name, said)| Self::of(name, rows, *said)).collect()
    }

    fn of(name: &'static str, rows: &[Row], said: fn(&Row) -> &Said) -> Self {
        let mut accuracy = Accuracy::default();
        rows.iter().for_each(|row| accuracy.add(&row.scene, &said(row).text));
        let sum: f64 = rows.iter().map(|row| f64::from(said(row).similarity)).sum();
        Self { name, similarity: sum / rows.len().max(1) as f64, accuracy }
    }

    /// What stands under [`HEADINGS`]: mean similarity, then percentages. Colour, shape, size and place are of all objects,
    /// the others of all captions.
    pub fn cells(&self) -> [String; HEADINGS.len()] {
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

/// What has to be known to read the table, a sentence each.
pub fn notes(rows: &[Row], judge: &str) -> [String; 3] {
    let mut accuracy = Accuracy::default();
    rows.iter().for_each(|row| accuracy.add(&row.scene, &short(&row.scene)));
    let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
    let objects = percent(accuracy.colour, accuracy.objects);
    let scenes = percent(accuracy.count, accuracy.captions);
    [
        format!("Similarity is as {judge} judges it, also its own captions."),
        "Exact: word for word the true short or descriptive caption.".to_owned(),
        format!(
            "A true short caption names one object: {objects:.1} % of colours and shapes, {scenes:.1} % of counts."
        ),
    ]
}
