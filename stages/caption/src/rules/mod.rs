//! Text rules: properties that make a caption unusable whatever its similarity. Pure, no threads.
//!
//! A candidate that violates a rule stays in the row's list and is never chosen. All rules are off until they are set.
//!
//! A *word* is one by Unicode's word boundaries (UAX #29): letters and digits that belong together, without the
//! punctuation around them; `don't` and `3.5` are one word, `black-and-white` is three. Chinese characters and Hiragana
//! are a word each, a run of Katakana is one; languages without spaces that need a dictionary (Thai, Lao, Khmer) count by
//! the character. Words are compared in lower case by Unicode's own table, with `’` as `'`; nothing else is normalised.
//! A *character* is a Unicode scalar value, as Python's `len` counts.
//!
//! Every rule takes time linear in the text.
//!
//! ```
//! use recaption_caption::rules::{RuleSettings, TextRules};
//!
//! let rules = TextRules::new(RuleSettings { max_words: Some(2), junk: true, ..RuleSettings::default() })?;
//! assert!(rules.check("a cat").is_none());
//! let violation = rules.check("a red cat").expect("three words");
//! assert_eq!(violation.to_string(), "rules.max_words = 2 (the caption has 3 words)");
//! assert_eq!(rules.check("IMG_1234.jpg").expect("a file name").rule, "rules.junk");
//! # Ok::<(), recaption_caption::rules::RuleError>(())
//! ```

mod camera;
mod junk;
mod phrases;
mod quote;
mod repeats;
mod settings;
#[cfg(test)]
mod tests;
mod text_rules;
mod violation;
mod words;

pub use self::{
    settings::{DEFAULT_NGRAM, RuleError, RuleSettings},
    text_rules::TextRules,
    violation::{RuleViolation, describe_violations},
};
