//! ftfy's own examples and Python's corner cases. `scripts/build_tokenizer.py --check` compares thousands of texts.

use super::{clean, fix_text, unescape};
use crate::model::TextCleaning;

#[test]
fn texts_are_fixed_as_ftfy_fixes_them() {
    for (text, want) in [
        ("âœ” No problems", "✔ No problems"),
        ("&macr;\\_(ã\u{83}\u{84})_/&macr;", "¯\\_(ツ)_/¯"),
        ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "Broken text… it's flubberific!"),
        ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
        ("sÃ³", "só"),
        ("voilÃ le travail", "voilà le travail"),
        ("â€œ like this â€�", "\" like this �"),
        ("P&EACUTE;REZ &nTILDE;", "PÉREZ &nTILDE;"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("\u{1b}[36;44mblue\u{1b}[0m", "blue"),
        ("a\r\nb\u{2028}c\u{feff}\u{7f}", "a\nb\nc"),
        ("e\u{301}", "é"),
        ("", ""),
    ] {
        assert_eq!(fix_text(text), want, "{text:?}");
    }
}

#[test]
fn entities_are_unescaped_as_python_does_it() {
    for (text, want) in [
        ("&amp;lt;", "&lt;"),
        ("&ampx &notit; &notin;", "&x ¬it; ∉"),
        ("&#65&#x42;&#0;&#128;&#xD800;&#x110000;&#1;", "AB\u{fffd}€\u{fffd}\u{fffd}"),
        ("& &; &# &#; &#x; &unknown;", "& &; &# &#; &#x; &unknown;"),
        ("&CounterClockwiseContourIntegral;é", "∳é"),
        ("&é &gté", "&é >é"),
        ("&#99999999999999999999;", "\u{fffd}"),
    ] {
        assert_eq!(unescape(text), want, "{text:?}");
    }
}

#[test]
fn white_space_is_folded_and_letters_are_small() {
    let lower = |text| clean(text, TextCleaning::Lower);
    assert_eq!(lower("  A\u{a0}Photo\t of &AMP;amp;\n\u{3000}ΟΔΟΣ İ "), "a photo of & οδος i\u{307}");
    assert_eq!(lower("\u{1c} \u{85}"), "…");
}

#[test]
fn other_cleanings_are_those_of_their_tokenizers() {
    let text = " A&amp;B:  snake_case, it's\tΟΔΟΣ! ▁x ";
    for (cleaning, want) in [
        (TextCleaning::Whitespace, "A&B: snake_case, it's ΟΔΟΣ! ▁x"),
        (TextCleaning::Canonicalize, "ab snake case its οδος ▁x"),
        (TextCleaning::Siglip, "aampb snakecase its οδος x"),
        (TextCleaning::Lowercase, " a&amp;b:  snake_case, it's\tοδοσ! ▁x "),
    ] {
        assert_eq!(clean(text, cleaning), want, "{cleaning:?}");
    }
}
