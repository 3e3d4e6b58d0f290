//! What the script shows: the sample, examples of rejects and the columns of scores, as JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::scores::{self, Scale};
use crate::report::{
    content::{Report, SampledCaption},
    source::ReportReject,
    texts::clipped,
    thumbnail::Picture,
};

/// Bytes of texts in a page, at most, as they are in JSON.
const MAX_TEXT_BYTES: usize = 6_000_000;
/// Characters of a text, at most.
const MAX_CHARACTERS: usize = 2000;
/// Characters of a text that are always shown.
const MIN_CHARACTERS: usize = 40;
/// Candidates of a caption, at most.
const MAX_CANDIDATES: usize = 32;
/// Largest number of bytes of a character in JSON: an escape.
const ESCAPE_BYTES: usize = 6;

/// Returns the data of the page.
pub(super) fn data(report: &Report, scales: &[Scale<'_>], bytes_of_images: usize) -> Value {
    let rows = (report.captions.len() + report.rejects.len()).max(1);
    // Each row has the same room for its texts.
    let room = MAX_TEXT_BYTES / rows;
    let mut left = bytes_of_images;
    let samples: Vec<Value> =
        report.captions.iter().map(|sampled| caption(sampled, room, &mut left)).collect();
    let rejects: Vec<Value> = report.rejects.iter().map(|row| reject(row, room)).collect();
    json!({
        "output": report.source.output,
        "scores": scores::data(report, scales),
        "samples": samples,
        "rejects": rejects,
    })
}

/// The room for the texts of one row, bytes.
struct Room(usize);

impl Room {
    /// Returns as much of a text as there is room for.
    fn text(&mut self, text: &str) -> String {
        let bytes = |text: &str| text.chars().map(json_bytes).sum::<usize>();
        let mut shown = clipped(text, MAX_CHARACTERS);
        if bytes(shown) > self.0 {
            shown = clipped(shown, (self.0 / ESCAPE_BYTES).max(MIN_CHARACTERS));
        }
        self.0 = self.0.saturating_sub(bytes(shown));
        if shown.len() < text.len() { format!("{shown}\u{2026}") } else { shown.to_owned() }
    }
}

fn json_bytes(c: char) -> usize {
    match c {
        '\n' | '\r' | '\t' | '"' | '\\' => 2,
        '<' | '>' | '&' | '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => ESCAPE_BYTES,
        c => c.len_utf8(),
    }
}

fn caption(sampled: &SampledCaption, room: usize, images: &mut usize) -> Value {
    let (row, mut room) = (&sampled.row, Room(room));
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| {
        value.insert(name.to_owned(), field);
    };
    put("k", room.text(&row.key).into());
    put("c", room.text(&row.caption).into());
    put("v", score(row.similarity));
    if row.itm.is_some() {
        put("itm", score(row.itm));
    }
    if let Some(original) = &row.org_caption {
        put("o", room.text(original).into());
        put("ov", score(row.org_similarity));
        if row.org_itm.is_some() {
            put("oitm", score(row.org_itm));
        }
    }
    put("s", room.text(&row.shard).into());
    put("w", row.width.into());
    put("h", row.height.into());
    let mut candidates = Vec::new();
    for (text, similarity) in row.candidates.iter().take(MAX_CANDIDATES) {
        if room.0 == 0 {
            break;
        }
        candidates.push(json!([room.text(text), score(*similarity)]));
    }
    put("n", candidates.into());
    match &sampled.picture {
        Some(Picture::Shown { jpeg, width, height }) => {
            let bytes = jpeg.len().div_ceil(3) * 4;
            if bytes <= *images {
                *images -= bytes;
                put("i", STANDARD.encode(jpeg).into());
                put("iw", (*width).into());
                put("ih", (*height).into());
            } else {
                put("m", "left out: the page has no room for more images".into());
            }
        }
        Some(Picture::Missing(reason)) => put("m", room.text(reason).into()),
        None => put("m", "no image".into()),
    }
    value.into()
}

fn reject(row: &ReportReject, room: usize) -> Value {
    let mut room = Room(room);
    let mut value = Map::new();
    let mut put = |name: &str, field: Value| {
        value.insert(name.to_owned(), field);
    };
    put("k", room.text(&row.key).into());
    // Whole: rows are filtered by it.
    put("r", row.reason.as_str().into());
    put("d", room.text(&row.detail).into());
    put("s", room.text(&row.shard).into());
    put("v", score(row.similarity));
    if let Some(caption) = &row.caption {
        put("c", room.text(caption).into());
    }
    if let Some(original) = &row.org_caption {
        put("o", room.text(original).into());
    }
    value.into()
}

/// Returns a score in the shortest form that is the same number in single precision.
fn score(score: Option<f32>) -> Value {
    let shortest =
        score.filter(|score| score.is_finite()).and_then(|score| score.to_string().parse::<f64>().ok());
    shortest.map_or(Value::Null, Value::from)
}
