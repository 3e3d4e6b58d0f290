//! Texts that are not language: file names, URLs, mail addresses, camera names, codes.
//!
//! Two spellings are recognised: as people and files write them (`IMG_1234.jpg`), and as CLIP's tokenizer detokenises them,
//! with spaces around every mark and between all digits (`img _ 1 2 3 4. jpg`). What would be ambiguous with spaces ("the end.
//! it was ...") counts only without them. When in doubt a text is language: the threshold of similarity applies anyway.

use super::{camera, quote::quote, words::words};

/// Kind of an [`Atom`]: letters, one number, or one other character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letters,
    Digits,
    Mark,
}

/// The smallest piece of a text that the patterns below look at.
#[derive(Clone, Copy)]
struct Atom<'a> {
    text: &'a str,
    kind: Kind,
    /// Whether white space precedes it.
    spaced: bool,
    /// Byte offset in the text.
    at: usize,
}

impl Atom<'_> {
    fn is(&self, text: &str) -> bool {
        self.text.eq_ignore_ascii_case(text)
    }

    fn is_one_of(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is(text))
    }

    fn is_word(&self) -> bool {
        self.kind != Kind::Mark
    }
}

/// File name extensions, and those that count after a space too.
const FILES: [&str; 25] = [
    "jpg", "jpeg", "jpe", "png", "gif", "bmp", "tif", "tiff", "webp", "heic", "heif", "avif", "svg", "psd",
    "pdf", "cr2", "cr3", "nef", "arw", "dng", "mp4", "mov", "avi", "html", "php",
];
const FILES_AFTER_SPACE: [&str; 13] =
    ["jpg", "jpeg", "jpe", "png", "gif", "bmp", "tif", "tiff", "webp", "heic", "avif", "html", "php"];
/// Top-level domains that are not words, and those that count after a space too.
const DOMAINS: [&str; 26] = [
    "com", "org", "net", "edu", "gov", "info", "biz", "de", "fr", "uk", "ru", "jp", "cn", "nl", "pl", "br",
    "eu", "io", "tv", "ca", "au", "ch", "es", "se", "kr", "ly",
];
const DOMAINS_AFTER_SPACE: [&str; 2] = ["com", "org"];
/// Beginnings of cameras' file names; none is a word.
const STEMS: [&str; 13] =
    ["img", "imgp", "imag", "dsc", "dscn", "dscf", "dsci", "dcp", "mvi", "gopr", "hpim", "cimg", "pxl"];
/// Beginnings of file names that are names or words unless `_` follows.
const STEMS_BEFORE_MARK: [&str; 15] = [
    "mg",
    "sam",
    "wp",
    "p",
    "pano",
    "pict",
    "image",
    "photo",
    "picture",
    "vid",
    "video",
    "screenshot",
    "dji",
    "scan",
    "file",
];
/// Smallest number of digits of a camera's running number.
const STEM_DIGITS: usize = 3;
/// Number of digits after Panasonic's `P`.
const PANASONIC_DIGITS: usize = 7;
/// Smallest numbers of characters, of digits and of letters of a hexadecimal code.
const HEX: (usize, usize, usize) = (16, 4, 2);
/// Smallest numbers of characters of a code, and of changes between letters and digits in it.
const CODE: (usize, usize) = (12, 4);
/// Smallest numbers of characters of a base64 text, and of changes between capitals, small letters and digits in it.
const BASE64: (usize, usize) = (16, 6);
/// Length of the longest run of letters in a code: longer ones are words.
const CODE_LETTERS: usize = 5;

/// Describes what in `text` is not language; returns `None` for language.
pub(super) fn find(text: &str) -> Option<String> {
    if !text.chars().any(char::is_alphabetic) {
        return Some("the caption has no letter".into());
    }
    let spaced = text.replace(['_', '-', '/'], " ");
    let words = words(&spaced);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if camera::is_camera(&words) {
        return Some(format!("the caption is a camera's name: {}", quote(text.trim())));
    }
    let atoms = atoms(text);
    for i in 0..atoms.len() {
        let rest = &atoms[i..];
        let found =
            url(rest).or_else(|| mail(&atoms, i)).or_else(|| file_number(rest)).or_else(|| dotted(rest));
        if let Some((what, length)) = found {
            return Some(format!("the caption holds {what}: {}", quote(cut(text, rest, length))));
        }
    }
    let (what, code) = hexadecimal(text, &atoms).or_else(|| code(text))?;
    Some(format!("the caption holds {what}: {}", quote(code)))
}

/// Splits a text into atoms.
fn atoms(text: &str) -> Vec<Atom<'_>> {
    let mut atoms: Vec<Atom> = Vec::new();
    let mut spaced = true;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            spaced = true;
            continue;
        }
        let kind = match c {
            '0'..='9' => Kind::Digits,
            _ if c.is_alphanumeric() => Kind::Letters,
            _ => Kind::Mark,
        };
        match atoms.last_mut() {
            Some(last) if !spaced && last.kind == kind && kind != Kind::Mark => {
                last.text = &text[last.at..at + c.len_utf8()];
            }
            _ => atoms.push(Atom { text: &text[at..at + c.len_utf8()], kind, spaced, at }),
        }
        spaced = false;
    }
    atoms
}

/// Returns the piece of `text` that the first `length` atoms of `rest` cover.
fn cut<'a>(text: &'a str, rest: &[Atom<'a>], length: usize) -> &'a str {
    match (rest.first(), rest[..length].last()) {
        (Some(first), Some(last)) => &text[first.at..last.at + last.text.len()],
        _ => "",
    }
}

/// What was found and the number of atoms that it covers.
type Found = Option<(&'static str, usize)>;

/// Matches `http://`, `www.example`.
fn url(rest: &[Atom]) -> Found {
    let [a, b, c, d, ..] = rest else {
        return match rest {
            [a, b, c] if a.is("www") && b.is(".") && c.is_word() => Some(("an address", 3)),
            _ => None,
        };
    };
    if a.is("www") && b.is(".") && c.is_word() {
        return Some(("an address", 3));
    }
    let scheme = a.is_one_of(&["http", "https", "ftp", "s3"]);
    (scheme && b.is(":") && c.is("/") && d.is("/")).then_some(("an address", 4))
}

/// Matches `name@host.tld` around the `@` at `i`.
fn mail(atoms: &[Atom], i: usize) -> Found {
    let [at, host, dot, domain, ..] = &atoms[i..] else { return None };
    let named = i > 0 && atoms[i - 1].is_word();
    if !(named && at.is("@") && host.is_word() && dot.is(".") && domain.kind == Kind::Letters) {
        return None;
    }
    let whole = ![at, host, dot, domain].iter().any(|atom| atom.spaced);
    (whole || domain.is_one_of(&DOMAINS_AFTER_SPACE)).then_some(("a mail address", 4))
}

/// Matches `IMG_1234`, `DSC00012`, `P1010023`, with or without CLIP's spaces.
fn file_number(rest: &[Atom]) -> Found {
    let (stem, mut after) = rest.split_first()?;
    let mark = after.first().is_some_and(|a| a.is("_") || a.is("-"));
    let underscore = after.first().is_some_and(|a| a.is("_"));
    after = &after[usize::from(mark)..];
    let numbers = after.iter().take_while(|a| a.kind == Kind::Digits).take(PANASONIC_DIGITS).count();
    let digits: usize = after[..numbers].iter().map(|a| a.text.len()).sum();
    let glued = after.first().is_some_and(|a| !a.spaced);
    let known = stem.is_one_of(&STEMS) || (underscore && stem.is_one_of(&STEMS_BEFORE_MARK));
    let panasonic = stem.is("p") && !mark && glued && digits == PANASONIC_DIGITS;
    let found = (known && digits >= STEM_DIGITS) || panasonic;
    found.then_some(("a file name", 1 + usize::from(mark) + numbers))
}

/// Matches `name.jpg`, `example.com`.
fn dotted(rest: &[Atom]) -> Found {
    let [name, dot, end, after @ ..] = rest else { return None };
    if !(name.is_word() || name.is(")") || name.is("_")) || !dot.is(".") || !end.is_word() {
        return None;
    }
    // An extension with a digit in it is two atoms.
    let more = after.first().filter(|a| a.is_word() && !a.spaced);
    let ending = format!("{}{}", end.text, more.map_or("", |a| a.text)).to_ascii_lowercase();
    let (glued, length) = (!end.spaced && !dot.spaced, 3 + usize::from(more.is_some()));
    let (files, domains): (&[&str], &[&str]) =
        if glued { (&FILES, &DOMAINS) } else { (&FILES_AFTER_SPACE, &DOMAINS_AFTER_SPACE) };
    if files.contains(&ending.as_str()) {
        Some(("a file name", length))
    } else if name.is_word() && domains.contains(&ending.as_str()) {
        Some(("an address", length))
    } else {
        None
    }
}

/// Finds a digest or UUID: many hexadecimal digits with hyphens between them, all without spaces or all with CLIP's.
fn hexadecimal<'a>(text: &'a str, atoms: &[Atom<'a>]) -> Option<(&'static str, &'a str)> {
    let mut begin = 0;
    while begin < atoms.len() {
        let spaced = atoms.get(begin + 1).is_some_and(|next| next.spaced);
        let hex = |a: &Atom| match a.kind {
            Kind::Mark => a.is("-"),
            // CLIP's tokenizer separates all digits: "1920 1930" is not a piece of a code.
            Kind::Digits => !spaced || a.text.len() == 1,
            Kind::Letters => a.text.bytes().all(|b| b.is_ascii_hexdigit()),
        };
        if !hex(&atoms[begin]) {
            begin += 1;
            continue;
        }
        let joined = |a: &&Atom| hex(a) && a.spaced == spaced;
        let length = 1 + atoms[begin + 1..].iter().take_while(joined).count();
        let run = &atoms[begin..begin + length];
        let count = |kind| run.iter().filter(|a| a.kind == kind).map(|a| a.text.len()).sum::<usize>();
        let (digits, letters) = (count(Kind::Digits), count(Kind::Letters));
        let pieces = run.iter().filter(|a| a.kind == Kind::Letters).count();
        // A piece of a longer word is not a code: "added1234xyz".
        let whole = atoms.get(begin + length).is_none_or(|next| next.spaced || spaced || !next.is_word());
        let mixed = digits >= HEX.1 && letters >= HEX.2 && (!spaced || pieces > HEX.2);
        if whole && mixed && digits + letters >= HEX.0 {
            return Some(("a code", cut(text, run, length)));
        }
        begin += length;
    }
    None
}

/// Finds an identifier or base64: one token that changes often between letters and digits, or capitals and small letters.
fn code(text: &str) -> Option<(&'static str, &str)> {
    let is_mark = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '=' | '_'));
    let tokens = text.split(is_mark).map(|t| t.trim_matches(['+', '=', '_']));
    tokens.into_iter().find(|token| is_id(token) || is_base64(token)).map(|token| ("a code", token))
}

fn is_id(token: &str) -> bool {
    let atoms = atoms(token);
    let short =
        |a: &Atom| a.kind == Kind::Digits || (a.kind == Kind::Letters && a.text.len() <= CODE_LETTERS);
    // `10x20x30cm` is a size.
    let is_size = atoms.iter().rev().skip(1).all(|a| a.kind == Kind::Digits || a.is("x"));
    token.len() >= CODE.0 && atoms.len() > CODE.1 && !is_size && atoms.iter().all(short)
}

fn is_base64(token: &str) -> bool {
    let class = |b: u8| match b {
        b'A'..=b'Z' => 1,
        b'a'..=b'z' => 2,
        b'0'..=b'9' => 3,
        _ => 4,
    };
    let classes: Vec<i32> = token.bytes().map(class).collect();
    let has = |class| classes.contains(&class);
    // From a capital to a small letter is how words begin.
    let jumps = classes.windows(2).filter(|pair| pair[0] != pair[1] && *pair != [1, 2]).count();
    token.len() >= BASE64.0 && has(1) && has(2) && has(3) && jumps >= BASE64.1
}
