//! A report's page, as it is in the file.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    Place,
    program::{Said, recaption},
};

/// A page, and what its script gets.
pub(crate) struct Page {
    pub(crate) html: String,
    pub(crate) data: Value,
}

impl Page {
    pub(crate) fn read(path: &Path) -> Self {
        let html = fs::read_to_string(path).expect("a page");
        let (_, rest) = html.split_once("id=\"data\">").expect("data");
        let (data, _) = rest.split_once("</script>").expect("an end of the data");
        Self { data: serde_json::from_str(data).expect("JSON"), html }
    }

    pub(crate) fn samples(&self) -> &[Value] {
        self.data["samples"].as_array().expect("a list")
    }

    /// Scores at or above a threshold, by the histogram.
    pub(crate) fn at_least(&self, column: &str, threshold: f64) -> u64 {
        let column = &self.data["scores"][column];
        let first = column["first"].as_u64().expect("a bin") as i64;
        let bin = (threshold * 1000.0).round() as i64 + 1000;
        let counts = column["counts"].as_array().expect("counts").iter();
        let kept = counts.enumerate().filter(|(i, _)| first + *i as i64 >= bin);
        kept.map(|(_, n)| n.as_u64().expect("a count")).sum()
    }

    /// Whether a table has a row with these cells at its beginning.
    #[track_caller]
    pub(crate) fn has_row(&self, cells: &[&str]) {
        let rows = self.html.split("<tr>").map(|row| row.split("</tr>").next().unwrap_or_default());
        let text = |row: &str| {
            let mut cells = Vec::new();
            for cell in row.split(['<']).filter(|cell| cell.starts_with("td") || cell.starts_with("th")) {
                cells.push(cell.split_once('>').map_or("", |(_, text)| text).to_owned());
            }
            cells
        };
        let found =
            rows.map(text).any(|row| row.len() >= cells.len() && row.iter().zip(cells).all(|(a, b)| a == b));
        assert!(found, "no row begins with {cells:?}");
    }
}

pub(crate) fn report(place: &Place, out: &str, arguments: &[&str]) -> (Said, Page) {
    let said = recaption()
        .dir(place.root())
        .args(["--log-format", "text", "report", out, "--out", "page.html"])
        .args(arguments)
        .ends(0);
    (said, Page::read(&place.path("page.html")))
}
