//! Text rules: what a caption may not be, whatever its similarity. Pure, no threads; asked by `filter`.
//!
//! A candidate that breaks a rule stays in the row's list and is never chosen. All rules are off until they are set.
//!
//! A *word* is one by Unicode's word boundaries (UAX #29): letters and digits that belong together, without the
//! punctuation around them; `don't` and `3.5` are one word, `black-and-white` is three. Chinese characters and Hiragana
//! are a word each, a run of Katakana is one; languages without spaces that need a dictionary (Thai, Lao, Khmer) count by
//! the character. Words are compared in lower case by Unicode's own table, with `’` as `'`. Nothing is normalised
//! otherwise. A *character* is a Unicode scalar value, as Python's `len` counts.
//!
//! Every rule takes time linear in the text.

mod camera;
mod junk;
mod phrases;
mod repeats;

use std::fmt;

use recaption_schemas::{Candidates, sha256_hex};
use unicode_segmentation::UnicodeSegmentation;

use self::phrases::Phrases;

/// Words of an n-gram of `rules.max_repeats`, unless `rules.ngram` says otherwise: shorter ones recur in good captions
/// ("a man and a woman and a dog"), longer ones miss short loops.
pub const DEFAULT_NGRAM: usize = 3;
/// Characters of a text that a detail quotes.
const QUOTED: usize = 60;
/// Longest list of banned words that is written out in records; longer ones are told by digest.
const LISTED_BYTES: usize = 200;

/// The rules as they were set; [`TextRules::new`] makes them valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSettings {
    /// Fewest words (`rules.min_words`).
    pub min_words: Option<usize>,
    /// Most words (`rules.max_words`).
    pub max_words: Option<usize>,
    /// Fewest characters (`rules.min_chars`).
    pub min_chars: Option<usize>,
    /// Most characters (`rules.max_chars`).
    pub max_chars: Option<usize>,
    /// Most times that any n-gram may occur, overlapping ones counted (`rules.max_repeats`).
    pub max_repeats: Option<usize>,
    /// Words of an n-gram (`rules.ngram`); `None` is [`DEFAULT_NGRAM`].
    pub ngram: Option<usize>,
    /// Words and phrases that may not occur (`rules.banned_words`).
    pub banned_words: Vec<String>,
    /// Whether texts that are no language are refused (`rules.junk`).
    pub junk: bool,
    /// Whether of equal candidates only the best may be chosen (`rules.duplicates`).
    pub duplicates: bool,
}

/// Settings that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RuleError {
    /// The key to change.
    pub key: &'static str,
    /// What is wrong with it.
    pub what: String,
}

/// A rule that a text broke. Shown as `rules.max_words = 12 (the caption has 15 words)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule's configuration key.
    pub rule: &'static str,
    /// What it is set to.
    pub setting: String,
    /// What the text has.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.rule, self.setting, self.detail)
    }
}

/// Valid rules. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRules {
    settings: RuleSettings,
    banned: Phrases,
}

impl TextRules {
    /// Validates settings.
    ///
    /// # Errors
    /// Bounds that no text keeps, zero where it would mean nothing, `ngram` without `max_repeats`, a banned word that
    /// holds no word.
    pub fn new(settings: RuleSettings) -> Result<Self, RuleError> {
        let s = &settings;
        let error = |key, what: String| Err(RuleError { key, what });
        for (key, least, other, most) in [
            ("rules.min_words", s.min_words, "rules.max_words", s.max_words),
            ("rules.min_chars", s.min_chars, "rules.max_chars", s.max_chars),
        ] {
            if let (Some(least), Some(most)) = (least, most)
                && least > most
            {
                return error(
                    key,
                    format!("`{key}` = {least} is above `{other}` = {most}: no caption keeps both"),
                );
            }
        }
        for (key, value) in [("rules.max_repeats", s.max_repeats), ("rules.ngram", s.ngram)] {
            if value == Some(0) {
                return error(key, format!("`{key}` must be at least 1"));
            }
        }
        if s.ngram.is_some() && s.max_repeats.is_none() {
            return error(
                "rules.ngram",
                "`rules.ngram` does nothing alone: set `rules.max_repeats` too".into(),
            );
        }
        let banned = Phrases::new(&s.banned_words).map_err(|entry| RuleError {
            key: "rules.banned_words",
            what: format!(
                "`rules.banned_words` holds {}, which has no letter or digit and would match nothing",
                quote(&entry)
            ),
        })?;
        Ok(Self { settings, banned })
    }

    /// The first rule that `text` breaks by itself, in the order of the settings. Duplicates are no matter of one text:
    /// see [`TextRules::choose`].
    #[must_use]
    pub fn check(&self, text: &str) -> Option<Broken> {
        let s = &self.settings;
        if s.min_chars.is_some() || s.max_chars.is_some() {
            let broken = bounds("chars", "characters", text.chars().count(), s.min_chars, s.max_chars);
            if broken.is_some() {
                return broken;
            }
        }
        let counts_words = s.min_words.or(s.max_words).or(s.max_repeats).is_some();
        if counts_words || !self.banned.is_empty() {
            let words = words(text);
            let broken = bounds("words", "words", words.len(), s.min_words, s.max_words)
                .or_else(|| self.check_repeats(&words))
                .or_else(|| self.check_banned(&words));
            if broken.is_some() {
                return broken;
            }
        }
        let detail = s.junk.then(|| junk::find(text)).flatten()?;
        Some(Broken { rule: "rules.junk", setting: "true".into(), detail })
    }

    fn check_repeats(&self, words: &[String]) -> Option<Broken> {
        let most = self.settings.max_repeats?;
        let (times, ngram) = repeats::most_repeated(words, self.settings.ngram.unwrap_or(DEFAULT_NGRAM))?;
        (times > most).then(|| Broken {
            rule: "rules.max_repeats",
            setting: most.to_string(),
            detail: format!("{} occurs {times} times", quote(&ngram.join(" "))),
        })
    }

    fn check_banned(&self, words: &[String]) -> Option<Broken> {
        let phrase = quote(&self.banned.first_in(words)?.join(" "));
        Some(Broken {
            rule: "rules.banned_words",
            setting: phrase.clone(),
            detail: format!("the caption holds {phrase}"),
        })
    }

    /// Position of the best candidate that breaks no rule.
    ///
    /// # Errors
    /// When every candidate breaks one: the rules broken, candidate by candidate, never empty.
    pub fn choose(&self, candidates: &Candidates) -> Result<usize, Vec<Broken>> {
        let mut broken = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for (position, candidate) in candidates.as_slice().iter().enumerate() {
            let mut wrong = self.check(&candidate.text);
            if self.settings.duplicates {
                let folded = fold(&candidate.text);
                let twin = seen.iter().position(|other| *other == folded);
                wrong = wrong.or_else(|| twin.map(duplicate));
                seen.push(folded);
            }
            match wrong {
                Some(rule) => broken.push(rule),
                None => return Ok(position),
            }
        }
        Err(broken)
    }

    /// The configuration keys of the rules that are set, with their values: only they change rows.
    #[must_use]
    pub fn row_keys(&self) -> Vec<(&'static str, String)> {
        let s = &self.settings;
        let ngram = s.max_repeats.map(|_| s.ngram.unwrap_or(DEFAULT_NGRAM));
        let numbers = [
            ("rules.min_words", s.min_words),
            ("rules.max_words", s.max_words),
            ("rules.min_chars", s.min_chars),
            ("rules.max_chars", s.max_chars),
            ("rules.max_repeats", s.max_repeats),
            ("rules.ngram", ngram),
        ];
        let mut keys: Vec<_> = numbers.into_iter().filter_map(|(k, v)| Some((k, v?.to_string()))).collect();
        if !self.banned.is_empty() {
            keys.push(("rules.banned_words", told(&self.banned.sorted())));
        }
        let flags = [("rules.junk", s.junk), ("rules.duplicates", s.duplicates)];
        keys.extend(flags.into_iter().filter(|(_, on)| *on).map(|(key, _)| (key, "true".to_owned())));
        keys
    }
}

/// The sentence for a sample none of whose candidates may be chosen. `broken` is one rule per candidate, best first.
#[must_use]
pub fn describe(broken: &[Broken]) -> String {
    let Some(first) = broken.first() else { return String::new() };
    if broken.len() == 1 {
        return first.to_string();
    }
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for rule in broken.iter().map(|b| b.rule) {
        match counts.iter_mut().find(|(name, _)| *name == rule) {
            Some((_, n)) => *n += 1,
            None => counts.push((rule, 1)),
        }
    }
    let counts: Vec<String> = counts.into_iter().map(|(rule, n)| format!("{rule} {n}")).collect();
    format!("all {} candidates break a rule: {}; the best: {first}", broken.len(), counts.join(", "))
}

fn duplicate(twin: usize) -> Broken {
    Broken {
        rule: "rules.duplicates",
        setting: "true".into(),
        detail: format!("the same text as candidate {}", twin + 1),
    }
}

fn bounds(what: &str, name: &str, n: usize, least: Option<usize>, most: Option<usize>) -> Option<Broken> {
    let (rule, setting) = match (least, most) {
        (Some(least), _) if n < least && what == "words" => ("rules.min_words", least),
        (Some(least), _) if n < least => ("rules.min_chars", least),
        (_, Some(most)) if n > most && what == "words" => ("rules.max_words", most),
        (_, Some(most)) if n > most => ("rules.max_chars", most),
        _ => return None,
    };
    let name = if n == 1 { name.trim_end_matches('s') } else { name };
    Some(Broken { rule, setting: setting.to_string(), detail: format!("the caption has {n} {name}") })
}

/// The words of a text, in lower case.
fn words(text: &str) -> Vec<String> {
    text.unicode_words().map(|word| word.to_lowercase().replace('’', "'")).collect()
}

/// A text by which equal candidates are known: its words, in lower case. A text without any is itself.
fn fold(text: &str) -> String {
    let folded = words(text).join(" ");
    if folded.is_empty() { text.trim().to_owned() } else { folded }
}

fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn told(words: &[String]) -> String {
    let list = format!("{words:?}");
    if list.len() <= LISTED_BYTES {
        return list;
    }
    format!("{} entries, sha256 {}", words.len(), &sha256_hex(list.as_bytes())[..16])
}

#[cfg(test)]
mod tests;
