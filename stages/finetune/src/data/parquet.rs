//! Outputs of `recaption run` with embedded images, as training data.

use arrow_array::{Array, BinaryArray, Float32Array, RecordBatch, StringArray, StructArray, cast::AsArray};
use recaption_output::{PartReader, commits::CommitLog};
use recaption_schemas::PartInfo;
use recaption_store::{Location, Stores};
use tokio::sync::mpsc;

use super::{
    caption::{Caption, trimmed},
    error::DataError,
    example::Example,
    input::InputItem,
};

/// Columns that are read.
const COLUMNS: [&str; 5] = ["key", "caption", "org_caption", "meta", "image"];
/// Columns that are read too where they decide: the probability of each text.
const PROBABILITIES: [&str; 2] = ["itm", "org_itm"];

/// One part of an output.
#[derive(Clone)]
pub(super) struct OutputPart {
    location: Location,
    info: PartInfo,
}

impl OutputPart {
    /// Returns path, rows and size, which change with the rows.
    pub(super) fn fingerprint(&self) -> String {
        format!("{} {} {}", self.location.url(), self.info.rows, self.info.bytes)
    }
}

/// Lists the committed parts of the output at `url`, sorted by path.
///
/// # Errors
/// Fails when the output cannot be listed or has no commit records.
pub(super) async fn parts(stores: &mut Stores, url: &str) -> Result<Vec<OutputPart>, DataError> {
    let failed = |e: &dyn std::fmt::Display| DataError::Output(e.to_string());
    let out = stores.locate(url).map_err(|e| failed(&e))?;
    let commit_log = CommitLog::new(out.clone());
    let mut parts = Vec::new();
    for (shard, names) in commit_log.list().await.map_err(|e| failed(&e))? {
        // A shard has several records while an interrupted run has not been finished: which part counts is open.
        if let [name] = names.as_slice() {
            let info = commit_log.read(&shard, name).await.map_err(|e| failed(&e))?.captions;
            parts.push(OutputPart { location: out.child(&info.path), info });
        } else {
            tracing::warn!(
                shard,
                records = names.len(),
                "skipped a shard with several commit records; finish the run first"
            );
        }
    }
    parts.sort_by(|a, b| a.info.path.cmp(&b.info.path));
    if parts.is_empty() {
        return Err(DataError::Output(format!(
            "{}: no commit records: not the output of a finished `recaption run`",
            out.url()
        )));
    }
    Ok(parts)
}

/// Sends a part's rows.
///
/// # Errors
/// Fails when the part cannot be read or has no embedded images.
pub(super) async fn read(
    number: usize,
    part: &OutputPart,
    caption: &Caption,
    to: &mpsc::Sender<InputItem>,
) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| e.to_string();
    let open = |columns| PartReader::open(part.location.clone(), &part.info, columns);
    let schema = open(None).await.map_err(|e| failed(&e))?.schema();
    let lacks = |name: &str| schema.index_of(name).is_err();
    if lacks("image") {
        return Err(format!(
            "{}: no column `image`: run with `output.images = \"embed\"` to train on an output",
            part.location.url()
        ));
    }
    let mut columns = COLUMNS.to_vec();
    if matches!(caption, Caption::Matched(_)) {
        if let Some(name) = PROBABILITIES.into_iter().find(|name| lacks(name)) {
            return Err(format!(
                "{}: no column `{name}`: run with a scorer that matches and `score.match_original = true`",
                part.location.url()
            ));
        }
        columns.extend(PROBABILITIES);
    }
    let mut reader = open(Some(&columns)).await.map_err(|e| failed(&e))?;
    let mut index = 0;
    while let Some(rows) = reader.next().await.map_err(|e| failed(&e))? {
        let rows = Columns::new(&rows)
            .ok_or_else(|| format!("{}: a column of {COLUMNS:?} has another type", part.location.url()))?;
        for i in 0..rows.len() {
            for text in rows.texts(i, caption) {
                let item = match text.and_then(|text| rows.example(i, (number, index), text)) {
                    Ok(example) => InputItem::Example(example, None),
                    Err(reason) => InputItem::Bad { index, reason: reason.to_owned() },
                };
                index += 1;
                if to.send(item).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// The columns of a batch of rows.
struct Columns<'a> {
    key: &'a StringArray,
    caption: &'a StringArray,
    original: &'a StringArray,
    meta: &'a StringArray,
    /// Probabilities of `caption` and `original`, where they decide.
    probabilities: Option<[&'a Float32Array; 2]>,
    image: &'a StructArray,
    bytes: &'a BinaryArray,
    path: &'a StringArray,
}

impl<'a> Columns<'a> {
    /// Returns the columns; `None` if one is missing or of another type.
    fn new(batch: &'a RecordBatch) -> Option<Self> {
        let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
        let image = batch.column_by_name("image")?.as_struct_opt()?;
        let numbers = |name| batch.column_by_name(name)?.as_any().downcast_ref::<Float32Array>();
        let [itm, org_itm] = PROBABILITIES.map(numbers);
        Some(Self {
            key: text("key")?,
            caption: text("caption")?,
            original: text("org_caption")?,
            meta: text("meta")?,
            probabilities: itm.zip(org_itm).map(|(itm, org_itm)| [itm, org_itm]),
            image,
            bytes: image.column_by_name("bytes")?.as_binary_opt::<i32>()?,
            path: image.column_by_name("path")?.as_string_opt::<i32>()?,
        })
    }

    fn len(&self) -> usize {
        self.key.len()
    }

    /// Returns the texts that row `i` is learnt with, each a sample, or the reason why there is none.
    fn texts(&self, i: usize, caption: &Caption) -> Vec<Result<String, &'static str>> {
        let optional = |column: &'a StringArray| column.is_valid(i).then(|| column.value(i));
        let texts = [optional(self.caption), optional(self.original)];
        let (Caption::Matched(least), Some(probabilities)) = (caption, self.probabilities) else {
            return vec![caption.find(texts[0], texts[1], optional(self.meta))];
        };
        let matched = texts.into_iter().zip(probabilities).filter_map(|(text, probability)| {
            let is_kept = probability.is_valid(i) && probability.value(i) >= *least;
            text.filter(|_| is_kept).map(trimmed)
        });
        let matched: Vec<_> = matched.collect();
        if matched.is_empty() { vec![Err("below_itm")] } else { matched }
    }

    /// Builds the example of row `i` with a text, the sample `index` of part `shard`.
    ///
    /// # Errors
    /// Fails with the reason, as counted.
    fn example(
        &self,
        i: usize,
        (shard, index): (usize, u64),
        caption: String,
    ) -> Result<Example, &'static str> {
        if self.image.is_null(i) || self.bytes.is_null(i) {
            return Err("missing_image");
        }
        let suffix = self.path.value(i).rsplit_once('.').map_or("", |(_, suffix)| suffix).to_owned();
        Ok(Example {
            shard,
            index,
            key: self.key.value(i).to_owned(),
            image: bytes::Bytes::copy_from_slice(self.bytes.value(i)),
            suffix,
            caption,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::ArrayRef;
    use arrow_schema::{DataType, Field};

    use super::*;

    /// A synthetic and an original caption, and their probabilities.
    type Texts<'a> = (&'a str, Option<&'a str>, Option<f32>, Option<f32>);

    fn rows(texts: &[Texts<'_>]) -> RecordBatch {
        let strings = |of: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
            Arc::new((0..texts.len()).map(of).collect::<StringArray>())
        };
        let numbers = |of: &dyn Fn(usize) -> Option<f32>| -> ArrayRef {
            Arc::new((0..texts.len()).map(of).collect::<Float32Array>())
        };
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(texts.iter().map(|_| b"image")));
        let field = |name: &str, kind| Arc::new(Field::new(name, kind, true));
        let image = StructArray::from(vec![
            (field("bytes", DataType::Binary), bytes),
            (field("path", DataType::Utf8), strings(&|i| Some(format!("{i}.png")))),
        ]);
        let columns: [(&str, ArrayRef); 7] = [
            ("key", strings(&|i| Some(format!("key {i}")))),
            ("caption", strings(&|i| Some(texts[i].0.to_owned()))),
            ("org_caption", strings(&|i| texts[i].1.map(str::to_owned))),
            ("meta", strings(&|_| None)),
            ("image", Arc::new(image)),
            ("itm", numbers(&|i| texts[i].2)),
            ("org_itm", numbers(&|i| texts[i].3)),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn each_text_is_learnt_whose_probability_is_high_enough() {
        let batch = rows(&[
            ("both", Some(" both, original "), Some(0.5), Some(0.9)),
            ("synthetic", Some("junk"), Some(0.8), Some(0.49)),
            ("wrong", Some("original"), Some(0.1), Some(0.7)),
            ("neither", Some("junk"), Some(0.2), Some(0.3)),
            ("alone", None, Some(1.0), None),
            ("not matched", Some("original"), None, None),
            ("blank", Some("  "), Some(0.0), Some(1.0)),
        ]);
        let rows = Columns::new(&batch).expect("columns");
        let matched = Caption::Matched(0.5);
        let texts: Vec<Vec<Result<String, &str>>> = (0..7).map(|i| rows.texts(i, &matched)).collect();
        let is = |i: usize, wanted: &[&str]| {
            let found: Vec<&str> = texts[i].iter().map(|text| text.as_deref().expect("a text")).collect();
            assert_eq!(found, wanted);
        };
        is(0, &["both", "both, original"]);
        is(1, &["synthetic"]);
        is(2, &["original"]);
        is(4, &["alone"]);
        assert_eq!((&texts[3], &texts[5]), (&vec![Err("below_itm")], &vec![Err("below_itm")]));
        assert_eq!(texts[6], [Err("no_caption")]);
        // What else can be the caption does not look at probabilities.
        assert_eq!(rows.texts(3, &Caption::Text), [Ok("neither".to_owned())]);
        let example = rows.example(1, (2, 5), "synthetic".to_owned()).expect("an example");
        assert_eq!((example.key.as_str(), example.shard, example.index), ("key 1", 2, 5));
        assert_eq!((example.suffix.as_str(), &example.image[..]), ("png", &b"image"[..]));
    }

    #[test]
    fn names_of_captions_are_read_and_written() {
        for name in ["text", "original", "json.alt", "itm>=0.5", "itm>=1"] {
            let caption = Caption::try_from(name.to_owned()).expect(name);
            assert_eq!(String::from(caption), name);
        }
        for name in ["", "json.", "itm>=", "itm>=1.5", "itm>=nan", "itm>0.5"] {
            assert!(Caption::try_from(name.to_owned()).is_err(), "{name}");
        }
    }
}
