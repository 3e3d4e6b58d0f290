//! Chooses among an image's candidate captions by text rules and a threshold, as a run does, without a model:
//!
//! ```text
//! printf '0.31\ta red star a red star a red star\n0.29\ta red star\n' | cargo run --example filter_candidates
//! ```
//!
//! Reads one candidate per line: similarity, tab, caption. Prints the chosen caption, or the reason of the reject.

use std::{
    error::Error,
    io::{self, BufRead},
    sync::Arc,
};

use recaption_caption::{
    filter::Filter,
    rules::{RuleSettings, TextRules},
};
use recaption_messages::SampleOutcome;
use recaption_schemas::{Candidate, Candidates, CaptionRow, Similarity};

fn main() -> Result<(), Box<dyn Error>> {
    let rules = RuleSettings {
        max_words: Some(40),
        max_repeats: Some(2),
        banned_words: vec!["watermark".to_owned()],
        junk: true,
        duplicates: true,
        ..RuleSettings::default()
    };
    let filter =
        Filter { min_similarity: Some(0.25), min_itm: None, rules: Arc::new(TextRules::new(rules)?) };

    let mut candidates = Vec::new();
    for (number, line) in io::stdin().lock().lines().enumerate() {
        candidates.push(candidate(&line?).ok_or_else(|| {
            format!("line {}: expected a finite similarity, a tab and a caption", number + 1)
        })?);
    }
    let candidates = Candidates::new(candidates).ok_or("no candidates on standard input")?;

    match filter.apply(row(candidates)) {
        SampleOutcome::Caption(row) => println!("kept      {}", row.candidates.chosen().text),
        SampleOutcome::Reject(reject) => println!("rejected  {}: {}", reject.reason, reject.detail),
        // Readers keep rows of earlier runs; a filter never does.
        SampleOutcome::Kept(_) => {}
    }
    Ok(())
}

fn candidate(line: &str) -> Option<Candidate> {
    let (similarity, text) = line.split_once('\t')?;
    let similarity = Similarity::new(similarity.trim().parse().ok()?)?;
    // Rules and threshold do not look at the log-probability.
    Some(Candidate { text: text.to_owned(), similarity, logprob: 0.0, itm: None })
}

/// Builds a row of which only the candidates matter here.
fn row(candidates: Candidates) -> CaptionRow {
    CaptionRow {
        key: "example".to_owned(),
        candidates,
        org_caption: None,
        org_similarity: None,
        org_itm: None,
        width: 1,
        height: 1,
        sha256: String::new(),
        url: None,
        meta: None,
        image: None,
    }
}
