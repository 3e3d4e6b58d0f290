//! [`TextRules`]: validated rules, checked against one text or chosen by.

use recaption_schemas::{Candidates, sha256_hex};

use super::{
    junk,
    phrases::Phrases,
    quote::quote,
    repeats,
    settings::{DEFAULT_NGRAM, RuleError, RuleSettings},
    violation::RuleViolation,
    words::{fold, words},
};

/// Size of the longest list of banned words that records hold in full; longer ones are recorded by digest.
const MAX_LISTED_BYTES: usize = 200;
/// Number of hexadecimal digits of that digest.
const DIGEST_DIGITS: usize = 16;

/// Validated rules. The default has none, so that no caption violates any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRules {
    settings: RuleSettings,
    banned: Phrases,
}

/// What a bound counts.
#[derive(Clone, Copy)]
enum Unit {
    Words,
    Chars,
}

impl TextRules {
    /// Validates settings.
    ///
    /// # Errors
    /// Fails on bounds that no text can meet, on zero repeats or words of an n-gram, on `ngram` without `max_repeats`, and on a
    /// banned word without a letter or digit.
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

    /// Returns the first rule that `text` violates by itself. Duplicates are a matter of several texts: see
    /// [`TextRules::choose`].
    #[must_use]
    pub fn check(&self, text: &str) -> Option<RuleViolation> {
        let s = &self.settings;
        if s.min_chars.is_some() || s.max_chars.is_some() {
            let violation = check_bounds(Unit::Chars, text.chars().count(), s.min_chars, s.max_chars);
            if violation.is_some() {
                return violation;
            }
        }
        let counts_words = s.min_words.or(s.max_words).or(s.max_repeats).is_some();
        if counts_words || !self.banned.is_empty() {
            let words = words(text);
            let violation = check_bounds(Unit::Words, words.len(), s.min_words, s.max_words)
                .or_else(|| self.check_repeats(&words))
                .or_else(|| self.check_banned(&words));
            if violation.is_some() {
                return violation;
            }
        }
        let detail = s.junk.then(|| junk::find(text)).flatten()?;
        Some(RuleViolation { rule: "rules.junk", setting: "true".into(), detail })
    }

    fn check_repeats(&self, words: &[String]) -> Option<RuleViolation> {
        let most = self.settings.max_repeats?;
        let (times, ngram) = repeats::most_repeated(words, self.settings.ngram.unwrap_or(DEFAULT_NGRAM))?;
        (times > most).then(|| RuleViolation {
            rule: "rules.max_repeats",
            setting: most.to_string(),
            detail: format!("{} occurs {times} times", quote(&ngram.join(" "))),
        })
    }

    fn check_banned(&self, words: &[String]) -> Option<RuleViolation> {
        let phrase = quote(&self.banned.first_in(words)?.join(" "));
        Some(RuleViolation {
            rule: "rules.banned_words",
            setting: phrase.clone(),
            detail: format!("the caption holds {phrase}"),
        })
    }

    /// Returns the position of the best candidate that violates no rule.
    ///
    /// # Errors
    /// Fails when every candidate violates a rule, with one violation per candidate, best candidate first; never empty.
    pub fn choose(&self, candidates: &Candidates) -> Result<usize, Vec<RuleViolation>> {
        let mut violations = Vec::new();
        let texts = candidates.as_slice().iter().map(|candidate| candidate.text.as_str());
        for (position, violation) in self.check_each(texts).enumerate() {
            match violation {
                Some(violation) => violations.push(violation),
                None => return Ok(position),
            }
        }
        Err(violations)
    }

    /// Returns for each candidate's text, best candidate first, the first rule that it violates, duplicates included.
    pub fn check_each<'a>(
        &'a self,
        texts: impl Iterator<Item = &'a str> + 'a,
    ) -> impl Iterator<Item = Option<RuleViolation>> + 'a {
        let mut seen: Vec<String> = Vec::new();
        texts.map(move |text| {
            let violation = self.check(text);
            if !self.settings.duplicates {
                return violation;
            }
            let folded = fold(text);
            let twin = seen.iter().position(|other| *other == folded);
            seen.push(folded);
            violation.or_else(|| twin.map(duplicate))
        })
    }

    /// Returns the configuration keys of the rules that are set, with their values: only they change rows.
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
            keys.push(("rules.banned_words", list_or_digest(&self.banned.sorted())));
        }
        let flags = [("rules.junk", s.junk), ("rules.duplicates", s.duplicates)];
        keys.extend(flags.into_iter().filter(|(_, on)| *on).map(|(key, _)| (key, "true".to_owned())));
        keys
    }
}

/// Returns the violation of a candidate whose text the candidate at position `twin` has too.
fn duplicate(twin: usize) -> RuleViolation {
    RuleViolation {
        rule: "rules.duplicates",
        setting: "true".into(),
        detail: format!("the same text as candidate {}", twin + 1),
    }
}

/// Checks a count of words or characters against its bounds.
fn check_bounds(unit: Unit, n: usize, least: Option<usize>, most: Option<usize>) -> Option<RuleViolation> {
    let (min_rule, max_rule, name) = match unit {
        Unit::Words => ("rules.min_words", "rules.max_words", "word"),
        Unit::Chars => ("rules.min_chars", "rules.max_chars", "character"),
    };
    let (rule, setting) = match (least, most) {
        (Some(least), _) if n < least => (min_rule, least),
        (_, Some(most)) if n > most => (max_rule, most),
        _ => return None,
    };
    let plural = if n == 1 { "" } else { "s" };
    let detail = format!("the caption has {n} {name}{plural}");
    Some(RuleViolation { rule, setting: setting.to_string(), detail })
}

/// Returns the list as records hold it: in full, or as its length and digest.
fn list_or_digest(words: &[String]) -> String {
    let list = format!("{words:?}");
    if list.len() <= MAX_LISTED_BYTES {
        return list;
    }
    format!("{} entries, sha256 {}", words.len(), &sha256_hex(list.as_bytes())[..DIGEST_DIGITS])
}
