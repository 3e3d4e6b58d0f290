//! Captions of every strategy against a golden's: in fp32 ids must be equal, and scores within a bound.
//!
//! In fp16 and int8 two close logits may change ranks, after which the text differs. Then see `rounded`.

use super::{
    checks::check_numbers,
    generation::{Captions, GENERATIONS, Generation},
    golden::unusable,
    rounded::Rounded,
};
use crate::{
    caption::{Admission, BeamSettings, CaptionSettings, Captioner, GeneratedTokens, Strategy},
    runtime::RuntimeError,
    tokenizer::{Tokenizer, tidy},
    verify::report::{Check, VerifyError},
};

impl Captions<'_> {
    /// Checks every tensor of captions that the golden has, and texts with a tokenizer.
    ///
    /// # Errors
    /// When a tensor is malformed or the model fails.
    pub(super) fn checks(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<Check>, VerifyError> {
        let mut checks = Vec::new();
        for generation in GENERATIONS {
            if self.golden.file.has(generation.ids) {
                self.check(&generation, tokenizer, &mut checks)?;
            }
        }
        Ok(checks)
    }

    fn check(
        &self,
        generation: &Generation,
        tokenizer: Option<&Tokenizer>,
        checks: &mut Vec<Check>,
    ) -> Result<(), VerifyError> {
        let bad = |what| unusable(self.path, what);
        let want = self.wanted(generation).map_err(bad)?;
        let prefix = self.prefix(generation).map_err(bad)?;
        let got = match self.generate(generation, &prefix) {
            Ok(captions) => captions,
            Err(RuntimeError::Input(reason)) => {
                checks.push(Check::new(generation.ids, false, format!("no captions: {reason}")));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let length = want[0].len();
        let rows: Vec<Vec<i64>> = got
            .iter()
            .map(|caption| {
                let mut row = [&prefix[..], &caption.ids].concat();
                row.resize(length.max(row.len()), self.model.spec.special_ids.pad);
                row
            })
            .collect();
        let equal = rows.iter().zip(&want).filter(|(got, want)| got == want).count();
        let passed = equal == want.len() && rows.len() == want.len();
        let mut detail = format!("{equal} of {} rows equal", want.len());
        if let Some(row) = rows.iter().zip(&want).position(|(got, want)| got != want) {
            detail += &format!(", first difference in row {row}");
        }
        if let Some(tolerance) = self.bounds.choice {
            let captions: Vec<Vec<i64>> = want.iter().map(|row| self.caption(row, prefix.len())).collect();
            let rounded = Rounded { captions: self, generation, prefix: &prefix, tolerance };
            checks.extend(rounded.checks((&got, &captions), detail)?);
            return Ok(());
        }
        checks.push(Check::new(generation.ids, passed, detail));
        if let Some(name) = generation.score.filter(|name| self.golden.file.has(name)) {
            let want = self.wanted_scores(generation, name).map_err(bad)?;
            let (got, max) = self.scores(generation, &got);
            checks.push(check_numbers(name, &got, &want, max));
        }
        let texts = generation.text.and_then(|name| Some((name, self.texts(name)?)));
        if let Some(((name, want), tokenizer)) = texts.zip(tokenizer) {
            checks.push(check_texts(name, &rows, want, tokenizer)?);
        }
        Ok(())
    }

    /// Returns the texts of that name in the JSON file.
    fn texts(&self, name: &str) -> Option<&[String]> {
        let settings = &self.golden.settings;
        let texts = match name {
            "greedy_text" => &settings.greedy_text,
            "beam_text" => &settings.beam_text,
            "prompt_greedy_text" => &settings.prompt_greedy_text,
            _ => return None,
        };
        texts.as_deref()
    }

    /// Reads the golden's rows of ids: start token, prompt, caption, padding.
    fn wanted(&self, generation: &Generation) -> Result<Vec<Vec<i64>>, String> {
        let (file, count) = (&self.golden.file, self.golden.count);
        let vocabulary = self.model.spec.dimensions.vocab_size;
        if !generation.all_beams {
            return file.ids(generation.ids, Some(count), vocabulary);
        }
        let beams = self.golden.settings.num_beams;
        file.id_rows(generation.ids, (count, beams), vocabulary)
    }

    /// Returns the caption of a golden's row: what follows the first `prefix` ids, up to and including the end token.
    fn caption(&self, row: &[i64], prefix: usize) -> Vec<i64> {
        let end = self.model.spec.special_ids.end;
        let ids = &row[prefix.min(row.len())..];
        ids[..ids.iter().position(|id| *id == end).map_or(ids.len(), |at| at + 1)].to_vec()
    }

    /// Returns what captions start with: the start token and the prompt, without its own first and last id.
    fn prefix(&self, generation: &Generation) -> Result<Vec<i64>, String> {
        let start = self.model.spec.special_ids.start;
        if !generation.has_prompt {
            return Ok(vec![start]);
        }
        let vocabulary = self.model.spec.dimensions.vocab_size;
        let rows = self.golden.file.ids("prompt", Some(self.golden.count), vocabulary)?;
        let row = rows.first().filter(|row| row.len() >= 2 && rows.iter().all(|other| other == *row));
        let row = row.ok_or("tensor `prompt`: rows differ, or hold no words between first and last id")?;
        Ok([&[start], &row[1..row.len() - 1]].concat())
    }

    /// Generates all captions that are compared: of every image the best, or all beams.
    fn generate(
        &self,
        generation: &Generation,
        prefix: &[i64],
    ) -> Result<Vec<GeneratedTokens>, RuntimeError> {
        let s = &self.golden.settings;
        let (max_tokens, prompt) = (s.max_length.saturating_sub(prefix.len()), prefix[1..].to_vec());
        let min_length = if generation.has_min_length { s.min_length } else { 0 };
        let min_tokens = min_length.saturating_sub(prefix.len());
        let plain =
            CaptionSettings { prompt, ..CaptionSettings::greedy(max_tokens, min_tokens, self.golden.count) };
        let beam =
            BeamSettings { beams: s.num_beams, length_penalty: s.length_penalty, ..BeamSettings::default() };
        let settings = match (generation.has_beams, generation.all_beams) {
            (false, _) => plain,
            (true, false) => CaptionSettings { strategy: Strategy::Beam(beam), ..plain },
            (true, true) => {
                CaptionSettings { strategy: Strategy::Beam(beam), candidates: s.num_beams, ..plain }
            }
        };
        let mut captioner = Captioner::load_with_rules(self.model, self.options, settings, generation.rules)?;
        let admissions: Vec<Admission> =
            (0..self.golden.count as u64).map(|ticket| Admission { ticket, seed: 0 }).collect();
        captioner.admit(&admissions, &self.golden.images)?;
        let mut done = Vec::new();
        while captioner.active() > 0 {
            done.extend(captioner.step()?);
        }
        done.sort_by_key(|generated| generated.ticket);
        Ok(done.into_iter().flat_map(|generated| generated.candidates).collect())
    }
}

/// Checks the texts of captions, which differ from transformers' in white space alone.
fn check_texts(
    name: &'static str,
    rows: &[Vec<i64>],
    want: &[String],
    tokenizer: &Tokenizer,
) -> Result<Check, RuntimeError> {
    let decode = |row: &Vec<i64>| tokenizer.decode(row).map_err(|e| RuntimeError::Input(e.to_string()));
    let got = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let equal = got.iter().zip(want).filter(|(got, want)| **got == tidy(want)).count();
    let passed = equal == want.len() && got.len() == want.len();
    Ok(Check::new(name, passed, format!("{equal} of {} texts equal", want.len())))
}
