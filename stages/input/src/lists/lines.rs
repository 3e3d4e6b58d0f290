//! Rows of lists with one row per line: JSON lines and plain text.

use super::{
    delimited::MAX_RECORD_BYTES,
    header::missing_url,
    row::{ListRow, Position},
};
use crate::{
    captions::{captions_of, text_of},
    columns::{CAPTION, Columns, KEY, URL, find_all},
    json::Document,
    keys::RowKey,
    setting_names::SettingNames,
};

/// A line that is arriving.
#[derive(Debug, Default)]
pub(super) struct PartialLine {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl PartialLine {
    /// Adds bytes, at most [`MAX_RECORD_BYTES`].
    pub(super) fn push(&mut self, piece: &[u8]) {
        if self.bytes.len() + piece.len() > MAX_RECORD_BYTES {
            self.is_too_long = true;
            self.bytes.clear();
        }
        if !self.is_too_long {
            self.bytes.extend_from_slice(piece);
        }
    }
}

/// Rows of a list with one row per line.
#[derive(Debug, Default)]
pub(super) struct LineList {
    pub(super) is_json: bool,
    pub(super) line: PartialLine,
    /// Fields by role, as the first row has them.
    pub(super) described: Option<String>,
}

impl LineList {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, ..Self::default() }
    }

    /// Ends the line and returns its row; `None` for a blank line.
    pub(super) fn end_line(
        &mut self,
        columns: &Columns,
        names: &SettingNames,
        position: &mut Position,
    ) -> Option<ListRow> {
        let PartialLine { bytes, is_too_long } = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim().trim_start_matches('\u{feff}');
        if text.is_empty() && !is_too_long {
            return None;
        }
        let at = position.next_row();
        if is_too_long {
            let error = format!("the line has more than {MAX_RECORD_BYTES} bytes");
            return Some(ListRow::malformed(at, error));
        }
        if !self.is_json {
            self.described.get_or_insert_with(|| "url=each line caption=none key=row number".to_owned());
            let (index, key) = at;
            return Some(ListRow { index, key, url: Ok(text.to_owned()), captions: Vec::new(), meta: None });
        }
        Some(match Document::read(text.as_bytes()) {
            Ok(object) if object.is_object() => self.row_of_object(&object, at, (columns, names)),
            Ok(_) => ListRow::malformed(at, "the line is no JSON object".into()),
            Err(error) => ListRow::malformed(at, format!("the line is no JSON: {error}")),
        })
    }

    fn row_of_object(
        &mut self,
        object: &Document,
        (index, number): (u64, RowKey),
        (columns, settings): (&Columns, &SettingNames),
    ) -> ListRow {
        let find = |configured: &Option<String>, usual: &[&str], fits: &dyn Fn(&str) -> bool| {
            let names = configured.as_deref().map_or_else(|| usual.to_vec(), |name| vec![name]);
            find_all(object.names(), &names).find(|at| fits(object.value(*at)))
        };
        let is_text = |value: &str| text_of(value).is_some();
        let url = find(&columns.url, &URL, &is_text);
        let caption = find(&columns.caption, &CAPTION, &|value| !captions_of(value).is_empty());
        let key = find(&columns.key, &KEY, &is_text);
        let text = |at: usize| text_of(object.value(at));
        let captions = caption.map(|at| captions_of(object.value(at))).unwrap_or_default();
        // Several captions all stay in the metadata of the row.
        let taken = caption.filter(|_| captions.len() == 1);
        let used: Vec<usize> = [url, taken, key].into_iter().flatten().collect();
        self.described.get_or_insert_with(|| {
            let name = |at: Option<usize>| at.and_then(|at| object.names().nth(at)).unwrap_or("none");
            let key = key.map_or("row number", |key| name(Some(key)));
            format!("url={} caption={} key={key} meta=the other fields", name(url), name(caption))
        });
        let names = || object.names().map(str::to_owned).collect::<Vec<_>>();
        let declared = key.and_then(text).filter(|key| !key.trim().is_empty());
        ListRow {
            index,
            key: declared.map_or(number, RowKey::Declared),
            url: url.and_then(text).ok_or_else(|| missing_url(&names(), settings)),
            captions,
            meta: object.without(&used),
        }
    }
}
