//! Outputs as a run would leave them.

use std::{path::Path, sync::Arc};

use recaption_output::{
    PartTarget, PartWriter,
    commits::{CommitLog, CommitRequest},
};
use recaption_schemas::{
    AddedColumns, COMMIT_FORMAT, Candidate, Candidates, CaptionRow, CaptionTable, Counts, MatchProbability,
    Reject, RejectReason, RejectTable, ShardCommit, ShardId, Similarity, caption_schema, reject_schema,
    sha256_hex,
};
use recaption_store::Stores;

use crate::support::{Dice, Place};

pub(crate) const SHARD: &str = "s3://nowhere/00000.tar";

/// A row whose caption has this similarity.
pub(crate) fn row(key: &str, caption: &str, similarity: f32, original: Option<(&str, f32)>) -> CaptionRow {
    let candidate = |text: &str, similarity: f32| Candidate {
        text: text.to_owned(),
        similarity: Similarity::new(similarity).expect("finite"),
        logprob: -1.5,
        itm: None,
    };
    CaptionRow {
        key: key.to_owned(),
        candidates: Candidates::new(vec![
            candidate(caption, similarity),
            candidate("the other candidate", similarity - 0.01),
        ])
        .expect("two"),
        org_caption: original.map(|(text, _)| text.to_owned()),
        org_similarity: original.and_then(|(_, similarity)| Similarity::new(similarity)),
        org_itm: None,
        width: 640,
        height: 480,
        sha256: sha256_hex(key.as_bytes()),
        url: None,
        meta: None,
        image: None,
    }
}

/// Writes one shard of an output as a run would leave it.
pub(crate) fn shard(out: &Path, url: &str, rows: &[CaptionRow], rejects: &[Reject]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let location = Stores::default().locate(&out.to_string_lossy()).expect("a path");
        let id = ShardId::from_url(url);
        let target =
            |table| PartTarget { output: &location, table, shard: id.as_str(), fingerprint: "0123-4567" };
        let matched = rows.iter().any(|row| row.org_itm.is_some());
        let embed = rows.iter().any(|row| row.image.is_some());
        let schema = Arc::new(caption_schema(AddedColumns { image: embed, org_itm: matched }, [].into()));
        let mut part = PartWriter::new(target("captions"), Arc::clone(&schema)).expect("a part");
        for rows in rows.chunks(100) {
            let mut table = CaptionTable::new(Arc::clone(&schema), url.into());
            rows.iter().for_each(|row| table.push(row));
            part.write(table.finish().expect("rows")).await.expect("written");
        }
        let captions = part.finish().await.expect("uploaded").info();
        let schema = Arc::new(reject_schema([].into()));
        let mut part = PartWriter::new(target("rejects"), Arc::clone(&schema)).expect("a part");
        if !rejects.is_empty() {
            let mut table = RejectTable::new(schema, url.into());
            rejects.iter().for_each(|reject| table.push(reject));
            part.write(table.finish().expect("rows")).await.expect("written");
        }
        let rejected = part.finish().await.expect("uploaded").info();
        let mut counts = Counts {
            read: (rows.len() + rejects.len()) as u64,
            captioned: rows.len() as u64,
            rejected: rejects.len() as u64,
            ..Counts::default()
        };
        for reject in rejects {
            *counts.reasons.entry(reject.reason.to_string()).or_default() += 1;
        }
        let commit = ShardCommit {
            format: COMMIT_FORMAT,
            shard: url.into(),
            size: 1,
            etag: None,
            fingerprint: "0123-4567".into(),
            configuration: [("caption.candidates".to_owned(), "2".to_owned())].into(),
            model: "digest-of-the-model".into(),
            counts,
            damaged: None,
            captions,
            rejects: rejected,
            webdataset: None,
            settings: [].into(),
        };
        let commit_log = CommitLog::new(location.clone());
        commit_log.commit(&CommitRequest::first(id.as_str(), &commit), || false).await.expect("committed");
    });
}

/// Rows of two shards with words from a small vocabulary.
pub(crate) fn vocabulary_rows(count: usize) -> Vec<CaptionRow> {
    let mut dice = Dice::new(11);
    let words = ["red", "dog", "ball", "tree", "green", "house"];
    let word = |dice: &mut Dice| words[dice.throw() as usize % words.len()];
    (0..count)
        .map(|n| {
            let caption = format!("a photo of {} {}", word(&mut dice), word(&mut dice));
            let original = format!("{} {n}", word(&mut dice));
            let similarity = (dice.fraction() * 0.6 - 0.1) as f32;
            let original =
                (!n.is_multiple_of(4)).then_some((original.as_str(), (dice.fraction() * 0.5) as f32));
            row(&format!("{n:05}"), &caption, similarity, original)
        })
        .collect()
}

/// Gives every second chosen caption a probability of matching, and every third row's original caption.
pub(crate) fn match_rows(rows: &mut [CaptionRow]) {
    let mut dice = Dice::new(12);
    for (n, row) in rows.iter_mut().enumerate() {
        let mut itm = || MatchProbability::of_logits([0.0, (dice.fraction() * 12.0 - 6.0) as f32]);
        if n.is_multiple_of(2) {
            let mut candidates = row.candidates.as_slice().to_vec();
            candidates[0].itm = itm();
            row.candidates = Candidates::new(candidates).expect("some");
        }
        if n.is_multiple_of(3) && row.org_caption.is_some() {
            row.org_itm = itm();
        }
    }
}

/// An output of two shards with 1,500 captions and 9 rejects; returns the rows.
pub(crate) fn vocabulary_output(place: &Place) -> Vec<CaptionRow> {
    let rows = vocabulary_rows(1500);
    let reject = |n: usize| {
        let reason = if n.is_multiple_of(3) { RejectReason::CorruptImage } else { RejectReason::CaptionRule };
        Reject::new(format!("x{n}"), reason, format!("what happened to {n}"))
    };
    let rejects: Vec<Reject> = (0..9).map(reject).collect();
    shard(&place.path("out"), SHARD, &rows[..700], &rejects);
    shard(&place.path("out"), "s3://nowhere/00001.tar", &rows[700..], &[]);
    rows
}

pub(crate) const HOSTILE: [&str; 8] = [
    "</script><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    "<!-- <script> -->",
    "\"quotes' & ampersands\\",
    "\u{202e}right to left \u{5e9}\u{5dc}\u{5d5}\u{5dd}",
    "emoji \u{1f600}\u{200d}\u{1f525}\u{2028}line",
    "control \u{0}\u{1b}[2J\u{7f}",
    "<style>*{display:none}</style></style></title>",
];

pub(crate) fn hostile_output(place: &Place) {
    let rows: Vec<CaptionRow> = HOSTILE
        .iter()
        .enumerate()
        .map(|(n, text)| row(&format!("{text}{n}"), text, 0.2 + n as f32 / 100.0, Some((text, 0.1))))
        .collect();
    let reject =
        |text: &&str| Reject::new(*text, RejectReason::CaptionRule, *text).with_caption(*text, Some(0.1));
    shard(
        &place.path("out"),
        "s3://nowhere/<b>'\".tar",
        &rows,
        &HOSTILE.iter().map(reject).collect::<Vec<_>>(),
    );
}
