//! Rows of lists with a header row: CSV and TSV.

use recaption_schemas::name_text;
use serde_json::{Map, Value};

use super::{
    delimited::{Record, RecordSink},
    row::{ListRow, Position, RowSink},
};
use crate::{
    columns::{self, CAPTION, Columns, KEY, URL, configured_column},
    keys::RowKey,
    setting_names::SettingNames,
};

/// The header of a list of delimited values, once it was parsed.
#[derive(Debug, Default)]
pub(super) struct DelimitedList {
    pub(super) header: Option<Header>,
    /// Bytes up to the end of the header row.
    pub(super) header_bytes: u64,
}

/// Columns of a list by role.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) names: Vec<String>,
    pub(super) url: usize,
    pub(super) caption: Option<usize>,
    pub(super) key: Option<usize>,
}

/// Turns records into rows.
pub(super) struct RowBuilder<'a, 'b> {
    pub(super) list: &'a mut DelimitedList,
    pub(super) columns: &'a Columns,
    pub(super) names: &'a SettingNames,
    pub(super) position: &'a mut Position,
    pub(super) sink: RowSink<'b>,
}

impl RecordSink for RowBuilder<'_, '_> {
    fn push_record(&mut self, Record { fields, error, end }: Record) -> Result<(), String> {
        self.position.bytes = end;
        let Some(header) = &self.list.header else {
            if let Some(error) = error {
                return Err(format!("cannot parse the header row: {error}; is this a list?"));
            }
            let names = fields.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned());
            self.list.header = Some(Header::new(names.collect(), self.columns, self.names)?);
            self.list.header_bytes = end;
            return Ok(());
        };
        let error = error.or_else(|| {
            let (here, names) = (fields.len(), header.names.len());
            (here != names).then(|| format!("the row has {here} values, the header row {names}"))
        });
        (self.sink)(header.row(self.position.next_row(), fields, error), end);
        Ok(())
    }

    fn is_row(&self, fields: &[&[u8]]) -> bool {
        let Some(header) = &self.list.header else { return false };
        let url = fields.get(header.url).map(|url| url.trim_ascii_start()).unwrap_or_default();
        let begins = |with: &[u8]| url.get(..with.len()).is_some_and(|url| url.eq_ignore_ascii_case(with));
        fields.len() == header.names.len() && (begins(b"http://") || begins(b"https://"))
    }
}

impl Header {
    fn new(names: Vec<String>, columns: &Columns, settings: &SettingNames) -> Result<Self, String> {
        let all = || names.iter().map(String::as_str);
        let find = |configured: &Option<String>, setting: &str, usual: &[&str]| match configured {
            Some(name) => configured_column(all(), name, setting).map(Some),
            None => Ok(columns::find(all(), usual)),
        };
        let url = find(&columns.url, settings.url_column, &URL)?;
        let caption = find(&columns.caption, settings.caption_column, &CAPTION)?;
        let key = find(&columns.key, settings.key_column, &KEY)?;
        let Some(url) = url else { return Err(missing_url(&names, settings)) };
        Ok(Self { names, url, caption, key })
    }

    /// Returns the columns without a role.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> {
        let used = [Some(self.url), self.caption, self.key];
        (0..self.names.len()).filter(move |at| !used.contains(&Some(*at)))
    }

    fn row(&self, (index, number): (u64, RowKey), fields: Vec<Vec<u8>>, error: Option<String>) -> ListRow {
        if let Some(error) = error {
            return ListRow::malformed((index, number), error);
        }
        let text = |at: usize| String::from_utf8_lossy(&fields[at]).into_owned();
        let key = self.key.map(|at| name_text(&fields[at])).filter(|key| !key.trim().is_empty());
        let meta: Map<String, Value> =
            self.others().map(|at| (self.names[at].clone(), Value::String(text(at)))).collect();
        ListRow {
            index,
            key: key.map_or(number, RowKey::Declared),
            url: Ok(text(self.url)),
            captions: self.caption.map(text).filter(|text| !text.trim().is_empty()).into_iter().collect(),
            meta: (!meta.is_empty()).then(|| Value::Object(meta).to_string()),
        }
    }
}

/// Returns the error of a list or row without a URL.
pub(super) fn missing_url(names: &[String], settings: &SettingNames) -> String {
    format!("no column of URLs; there are: {}. Name it with {}", names.join(", "), settings.url_column)
}
